"""A run whose bfloat16 parameters rest says so, in both loops."""

import logging

import pytest

from rlhf_jax.algorithms import GRPOConfig
from rlhf_jax.runs import train

LOW = {"dtype": "bfloat16"}
SAID = "of the 16-bit weights have moved"


def run(config, caplog):
    with caplog.at_level(logging.WARNING):
        train(config, progress=False)
    return caplog.text


@pytest.mark.slow
def test_an_offline_run_with_a_small_rate(tiny_config, caplog):
    small = {"learning_rate": 1e-6}
    log = run(
        tiny_config("sft", model=LOW, optimizer=small, training={"max_steps": 3, "eval_every": 0}),
        caplog,
    )
    assert log.count(SAID) == 1 and "step 3, diagnosis: only " in log
    assert "model.dtype=float32" in log and "docs/diagnosis.md#vanishing-updates" in log


@pytest.mark.slow
def test_an_online_run_with_a_small_rate(online_config, caplog):
    small = {"learning_rate": 1e-6}
    algorithm = GRPOConfig(group_size=4, num_minibatches=2)
    log = run(
        online_config(
            "grpo", algorithm=algorithm, model=LOW, optimizer=small, training={"max_steps": 2}
        ),
        caplog,
    )
    assert log.count(SAID) == 1 and "step 2, diagnosis: only " in log


@pytest.mark.slow
@pytest.mark.parametrize("model", [{}, LOW])
def test_a_run_that_moves_says_nothing(tiny_config, model, caplog):
    assert SAID not in run(
        tiny_config(
            "sft", model=model, optimizer={"learning_rate": 1e-2}, training={"max_steps": 3}
        ),
        caplog,
    )
