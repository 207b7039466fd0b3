"""The learning rate of a run that gives none."""

import re
from dataclasses import dataclass
from typing import ClassVar

import pytest

from rlhf_jax.algorithms import ALGORITHMS, algorithm_config, default_learning_rate, sft
from rlhf_jax.cli.keys import describe_algorithm, describe_keys
from rlhf_jax.config import load_config, make_config
from rlhf_jax.fields import field_docs
from rlhf_jax.training import OptimizerConfig
from rlhf_jax.types import Models

RATES = {"sft": 2e-5, "reward_model": 1e-4} | dict.fromkeys(
    ("dpo", "kto", "ppo", "grpo", "dapo"), 1e-6
)


def tree(name, **optimizer):
    rewards = {"rewards": [{"function": "math"}]} if name in ("ppo", "grpo", "dapo") else {}
    common = {
        "algorithm": {"name": name},
        "run_dir": "x",
        "data": {"path": "x"},
        "model": {"path": "x"},
    }
    return common | rewards | ({"optimizer": optimizer} if optimizer else {})


def test_every_algorithm_has_one():
    assert {name: default_learning_rate(algorithm_config(name)) for name in ALGORITHMS} == RATES


@pytest.mark.parametrize("name", RATES)
def test_a_run_takes_its_algorithms_and_writes_it_down(name, tmp_path):
    config = make_config(tree(name))
    assert config.optimizer.learning_rate == RATES[name]
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "config.yaml") == config
    assert config.changes_since(tmp_path / "config.yaml") == []
    assert make_config(tree(name, schedule="constant")).optimizer.learning_rate == RATES[name]
    assert (
        make_config(tree(name), ["optimizer.learning_rate=null"]).optimizer.learning_rate
        == RATES[name]
    )
    for rate in (0.0, 3e-4):
        assert make_config(tree(name, learning_rate=rate)).optimizer.learning_rate == rate


@pytest.mark.parametrize(
    ("algorithm", "optimizer", "critic"),
    [
        ({}, {}, 1e-5),
        ({}, {"schedule": "constant"}, 1e-5),
        ({}, {"learning_rate": 3e-4}, None),  # follows it
        ({"critic_learning_rate": 2e-3}, {}, 2e-3),
        ({"critic_learning_rate": 2e-3}, {"learning_rate": 3e-4}, 2e-3),
        ({"critic": "shared"}, {}, None),
    ],
)
def test_a_critic_of_its_own_has_one(algorithm, optimizer, critic, tmp_path):
    given = tree("ppo", **optimizer)
    config = make_config(given | {"algorithm": given["algorithm"] | algorithm})
    assert config.algorithm.critic_learning_rate == critic
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "config.yaml") == config
    assert config.changes_since(tmp_path / "config.yaml") == []


def test_an_algorithm_without_one_has_a_small_one(monkeypatch):
    @dataclass(frozen=True)
    class OwnConfig:
        data: ClassVar[str] = "text"
        models: ClassVar[Models] = Models()
        sampling: ClassVar[None] = None
        summary: ClassVar[str] = "a user's own"

        aggregation: str = "token"

    def make(config: OwnConfig, model):
        return sft.make(sft.SFTConfig(config.aggregation), model)

    make.__annotations__["config"] = OwnConfig
    monkeypatch.setitem(ALGORITHMS, "own", make)
    assert make_config(tree("own")).optimizer.learning_rate == 1e-5
    assert "optimizer.learning_rate  [a number] = 1e-05" in describe_algorithm("own")


def test_the_help_names_them():
    said = field_docs(OptimizerConfig)["learning_rate"]
    for name, rate in RATES.items():
        number = re.search(rf"\b{name}\b[a-z_, ]*? (?:and [a-z_]+ )?([0-9]e-[0-9])", said)
        assert number is not None and float(number[1]) == rate, name
        assert f"optimizer.learning_rate  [a number] = {rate}\n" in describe_algorithm(name)
    assert (
        f"optimizer.learning_rate  [a number or null] = null\n      {said[:40]}" in describe_keys()
    )
