"""A run whose bfloat16 parameters rest says so, in both loops."""

import logging

import pytest

from rlhf_jax.algorithms import GRPOConfig
from rlhf_jax.runs import train

LOW = {"dtype": "bfloat16"}
SAID = "of the bfloat16 weights of the layers have moved"


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
    assert (
        log.count(SAID) == 1
        and "after 3 updates only " in log
        and "optimizer.learning_rate=1e-06" in log
    )


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
    assert log.count(SAID) == 1 and "after 4 updates only " in log


@pytest.mark.slow
@pytest.mark.parametrize("model", [{}, LOW])
def test_a_run_that_moves_says_nothing(tiny_config, model, caplog):
    assert SAID not in run(
        tiny_config(
            "sft", model=model, optimizer={"learning_rate": 1e-2}, training={"max_steps": 3}
        ),
        caplog,
    )
