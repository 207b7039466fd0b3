"""What is built in Python is checked as what a file says."""

import dataclasses
import pathlib
import pydoc
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

import rlhf_jax
from rlhf_jax import algorithms, checked, config, data, fused, rewards, rollout, sharding, training
from rlhf_jax.algorithms import GRPOConfig, SFTConfig, register
from rlhf_jax.config import (
    CheckpointConfig,
    Config,
    ConfigError,
    EvaluationConfig,
    TrainingConfig,
    make_config,
)
from rlhf_jax.data import DataConfig
from rlhf_jax.fields import field_docs, section_class, settable
from rlhf_jax.fused import with_traced
from rlhf_jax.rewards import RewardConfig
from rlhf_jax.rollout import RolloutConfig
from rlhf_jax.sharding import MeshConfig
from rlhf_jax.training import OptimizerConfig
from rlhf_jax.types import Models

PACKAGES = (rlhf_jax, algorithms, config, data, fused, rewards, rollout, sharding, training)


def length_reward(completions, **columns):
    return [float(len(each)) for each in completions]


REFUSED = [
    (lambda: TrainingConfig(batch_size="two"), "batch_size='two' of TrainingConfig is not allowed; "
     "allowed: a whole number"),
    (lambda: TrainingConfig(batch_size=True), "batch_size=True of TrainingConfig"),
    (lambda: TrainingConfig(batch_size=2.5), "batch_size=2.5 of TrainingConfig"),
    (lambda: DataConfig(path="x", train_on="al"), r"one of: completion, all \(did you mean 'all'"),
    (lambda: RolloutConfig(slots="3"), "slots='3' of .* allowed: a whole number or None"),
    (lambda: RewardConfig(function=length_reward), "function=the function length_reward of "
     "RewardConfig is not allowed; allowed: text"),
    (lambda: RolloutConfig(stop="\n"), r"stop='\\n' of .* allowed: a list \(text each\)"),
    (lambda: DataConfig(path=[{"prompt": "a" * 200}]), r"path=\[{'prompt': 'aaa.*\.\.\. of"),
    (lambda: OptimizerConfig(learning_rate="1e-5"), "learning_rate='1e-5' of OptimizerConfig"),
    (lambda: Config(run_dir="r", algorithm=SFTConfig(), data={"path": "x"}),
     r"data={'path': 'x'} of Config is not allowed; allowed: a DataConfig \(rlhf_jax.make_config"),
    (lambda: Config(run_dir="r", algorithm={"name": "sft"}, data=DataConfig(path="x")),
     "dict is not the configuration of an algorithm; .*make_config takes nested dicts"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_a_value_of_another_type_is_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_an_algorithm_of_the_library_is_checked():
    """In a process of its own: the tests' own check of types comes first here."""
    code = (
        "from rlhf_jax import GRPOConfig\n"
        "import dataclasses, numpy\n"
        "assert type(GRPOConfig(kl_coef=1).kl_coef) is float\n"
        "assert GRPOConfig(group_size=numpy.int64(4)).group_size == 4\n"
        "for make in (lambda: GRPOConfig(group_size='two'), lambda: GRPOConfig(level='tokn'),\n"
        "             lambda: dataclasses.replace(GRPOConfig(), kl_coef='1')):\n"
        "    try: print(make())\n"
        "    except ValueError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        "group_size='two' of GRPOConfig is not allowed; allowed: a whole number",
        "level='tokn' of GRPOConfig is not allowed; allowed: one of: token, sequence "
        "(did you mean 'token'?)",
        "kl_coef='1' of GRPOConfig is not allowed; allowed: a number",
    ]


def test_what_means_the_same_is_taken():
    made = DataConfig(path=pathlib.Path("a") / "b", max_length=np.int64(64), buckets=[32, 64])
    assert (made.path, made.max_length, made.buckets) == ("a/b", 64, (32, 64))
    assert type(made.max_length) is int
    assert OptimizerConfig(learning_rate=np.float32(0.5)).learning_rate == 0.5
    assert EvaluationConfig(accuracy_reward=["math"]).accuracy_reward == ("math",)
    assert hash(RolloutConfig(stop=["\n"])) == hash(RolloutConfig(stop=("\n",)))


def test_traced_values_are_put_in_behind_the_check():
    with pytest.raises(ValueError, match="learning_rate=<object"):
        OptimizerConfig(learning_rate=object())
    assert isinstance(with_traced(GRPOConfig(), kl_coef=np.ones(3)).kl_coef, np.ndarray)


def test_an_algorithm_of_ones_own_is_checked_in_a_run():
    @dataclass(frozen=True)
    class OwnConfig:
        data: ClassVar[str] = "text"
        summary: ClassVar[str] = "own"
        models: ClassVar[Models] = Models()
        sampling: ClassVar[None] = None
        beta: float = 0.1

    before = dict(algorithms.ALGORITHMS)
    register("own", OwnConfig, lambda config, model: None)
    try:
        fields = {"run_dir": "r", "data": DataConfig(path="x"), "tokenizer": "byte"}
        model = config.ModelSection(path="m")
        assert Config(algorithm=OwnConfig(), model=model, **fields).algorithm.beta == 0.1
        with pytest.raises(ValueError, match="beta='much' of OwnConfig"):
            Config(algorithm=OwnConfig(beta="much"), model=model, **fields)
    finally:
        algorithms.ALGORITHMS.clear()
        algorithms.ALGORITHMS.update(before)


def test_defaults_are_of_their_types():
    """They are not looked at when an instance is made."""
    looked_at = 0
    for cls in classes().values():
        if not dataclasses.is_dataclass(cls) or not cls.__name__.endswith(("Config", "Section")):
            continue
        for name, key in settable(cls).items():
            default = key.field.default
            if default is not dataclasses.MISSING and section_class(key.type) is None:
                assert checked._validated(cls, name, key.type, default) == default
                looked_at += 1
    assert looked_at > 150


TREE = {
    "run_dir": pathlib.Path("runs") / "x",
    "algorithm": GRPOConfig(group_size=4),
    "data": DataConfig(path="synthetic:arithmetic"),
    "model": {"path": "m"},
    "rewards": [{"function": "math", "weight": np.float64(0.5)}],
    "training": {"batch_size": np.int64(4)},
    "mesh": MeshConfig(fsdp=1),
}


def test_make_config_takes_sections_paths_and_numpy():
    made = make_config(TREE)
    assert (made.run_dir, made.algorithm, made.training.batch_size) == (
        "runs/x",
        GRPOConfig(group_size=4),
        4,
    )
    assert made == make_config(made.to_tree())


NOT_WRITABLE = [
    ({"rewards": [{"function": length_reward}]},
     r"^rewards\[0\].function: the function length_reward is nothing that a configuration can "
     r"hold; reward functions are handed over: rlhf_jax.train\(..., rewards=\[f\]\)$"),
    ({"seed": object()}, "^seed: <object object at .* is nothing that a configuration can hold$"),
    ({"data": {"path": [{"prompt": "a" * 100}]}}, r"^data.path: \[{'prompt': 'a.*\.\.\. is not "
     "allowed; allowed: text"),
    ({"checkpoint": CheckpointConfig}, "^checkpoint: the class CheckpointConfig is nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("tree", "message"), NOT_WRITABLE)
def test_what_no_file_could_hold_is_one_line(tree, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_config(TREE | tree)
    assert "\n" not in str(caught.value)


def classes():
    found = {}
    for package in PACKAGES:
        for name in package.__all__:
            cls = getattr(package, name)
            is_record = isinstance(cls, type) and (
                hasattr(cls, "_fields") or dataclasses.is_dataclass(cls)
            )
            if is_record and name != "FieldDoc":
                found[cls.__name__] = cls
    return found


@pytest.mark.parametrize("name", sorted(classes()))
def test_help_names_every_field(name):
    """What Shift-Tab shows; the text below the field is the only copy of it."""
    cls = classes()[name]
    shown = " ".join(pydoc.plain(pydoc.render_doc(cls)).replace("|", " ").split())
    assert "Attributes:" in cls.__doc__ and "Alias for field number" not in shown
    fields = getattr(cls, "_fields", None) or [each.name for each in dataclasses.fields(cls)]
    for field in fields:
        assert f" {field} (" in shown or f" {field}: " in shown, field
    for field, text in field_docs(cls).items():
        if field in fields:
            assert " ".join(text.replace("|", " ").split()) in shown, field


@pytest.mark.parametrize("name", [each for each in sorted(classes()) if hasattr(rlhf_jax, each)])
def test_every_field_of_the_public_names_is_explained(name):
    cls = classes()[name]
    fields = getattr(cls, "_fields", None) or [each.name for each in dataclasses.fields(cls)]
    shown = " ".join(cls.__doc__.partition("Attributes:")[2].split())
    said = {field for field in fields if re.search(rf"\b{field}\b[^:]*: \S", shown)}
    assert said == set(fields)
