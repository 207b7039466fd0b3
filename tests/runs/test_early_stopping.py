"""Runs that end because their evaluations no longer improve."""

import dataclasses
import logging
import pathlib
import shutil

import pytest

from rlhf_jax.config import ConfigError, EarlyStoppingConfig
from rlhf_jax.io import read_metrics
from rlhf_jax.runs import train
from tests.runs.test_train import values

# Nothing improves by so much: the evaluations of steps 2 and 4 are waited for.
RULE = EarlyStoppingConfig(metric="loss/total", patience=2, min_delta=100.0)
LENGTH = {"max_steps": 40, "eval_every": 2, "save_every": 3, "early_stopping": RULE}


def steps_of(run_dir, split):
    rows = read_metrics(pathlib.Path(run_dir) / "metrics.jsonl")
    return [row["step"] for row in rows if row["split"] == split]


def with_training(config, **fields):
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **fields))


@pytest.mark.slow
def test_a_run_ends_early_says_why_and_stays_ended(tiny_config, caplog):
    config = tiny_config("sft", training=LENGTH)
    with caplog.at_level(logging.INFO):
        result = train(config)
    assert (result.steps, result.interrupted) == (4, False)
    assert (result.export_dir / "config.json").exists()
    assert steps_of(config.run_dir, "eval") == [0, 2, 4]
    assert (
        "step 4: training ends early: loss/total has not improved by more than 100 in 2 "
        "evaluations" in caplog.text
    )
    before = values(config.run_dir)
    again = train(config)  # the same command
    assert again.steps == 4 and values(config.run_dir) == before
    # With more patience it goes on; what earlier sessions evaluated counts.
    patient = dataclasses.replace(RULE, patience=3)
    assert train(with_training(config, early_stopping=patient)).steps == 6
    assert steps_of(config.run_dir, "eval") == [0, 2, 4, 6]


@pytest.mark.slow
def test_a_resumed_run_decides_as_a_whole_one(tiny_config, tmp_path):
    """Killed behind the first evaluation, it ends where the whole run does."""
    config = tiny_config("sft", run_dir=tmp_path / "killed", training=LENGTH)
    assert train(config).steps == 4
    before = values(config.run_dir)
    # As if it had been killed before step 4 was saved: it goes on from step 3.
    shutil.rmtree(tmp_path / "killed" / "checkpoints" / "4")
    assert train(config).steps == 4
    assert values(config.run_dir) == before


@pytest.mark.slow
def test_an_online_run_ends_early(online_config, caplog):
    rule = EarlyStoppingConfig(metric="rewards/sampled", patience=1, min_delta=100.0)
    config = online_config(
        "grpo", training={"max_steps": 20, "eval_every": 1, "early_stopping": rule}
    )
    with caplog.at_level(logging.INFO):
        assert train(config).steps == 1
    assert "step 1: training ends early: rewards/sampled has not improved" in caplog.text


@pytest.mark.parametrize(
    ("rule", "training", "message"),
    [
        ({}, {}, "training.early_stopping.metric and checkpoint.best_metric are null: name"),
        ({"metric": "loss/total"}, {"eval_every": 0}, "training.early_stopping needs evaluations"),
        ({"metric": "loss/totl"}, {}, "metric='loss/totl' is not measured .*mean 'loss/total'"),
    ],
)
def test_mistakes(tiny_config, rule, training, message):
    options = {"max_steps": 4, "early_stopping": EarlyStoppingConfig(**rule), **training}
    with pytest.raises(ConfigError, match=message):
        train(tiny_config("sft", training=options))
