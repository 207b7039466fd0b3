"""What a class says when it refuses a value begins with the name of one of its fields, so that the
error of a configuration has the key and its line. Provoked by wrong values, alone and in pairs."""

import dataclasses
import itertools
import re
import types
import typing
from collections.abc import Mapping
from typing import Literal

import pytest

from rlhf_jax.algorithms import ALGORITHMS, algorithm_config
from rlhf_jax.config import CompareConfig, Config, StageConfig
from rlhf_jax.config.build import Context
from rlhf_jax.config.sections import CheckpointConfig, ModelSection
from rlhf_jax.data import DataConfig
from rlhf_jax.fields import all_keys, section_class, settable
from rlhf_jax.rewards import RewardConfig

WRONG = {
    bool: [True, False],
    int: [-1, 0, 1, 2, 30, 2**33],
    float: [-1.0, 0.0, 0.5, 2.0, float("inf"), float("nan")],
    str: ["", " ", "x", "[", "nonsense"],
    type(None): [None],
    RewardConfig: [RewardConfig(function="math"), RewardConfig(function="x", name="mean")],
    StageConfig: [StageConfig(name="a"), StageConfig(name="..")],
}


def wrong_values(tp):
    """Values of a type that a class may refuse."""
    origin, args = typing.get_origin(tp), typing.get_args(tp)
    if origin in (typing.Union, types.UnionType):
        return [value for arg in args for value in wrong_values(arg)]
    if origin is Literal:
        return list(args)
    if origin in (tuple, list):
        items = wrong_values(args[0])
        return [(), *[(item,) for item in items], *[(item, item) for item in items[:2]]]
    if origin in (dict, Mapping):
        return [{}, {"x": 1}, {"messages": 1}, {"rollout": {}}]
    return WRONG.get(tp, [])


def is_refused(cls, given, found):
    """Whether a class refuses values; what it says goes to `found`."""
    try:
        cls(**given)
    except ValueError as error:
        found.append(error)
        return True
    return False


def changes(cls, base):
    """(field, value) of every wrong value, and of every section with one value in it changed."""
    for name, key in settable(cls).items():
        yield from [(name, value) for value in wrong_values(key.type)]
        current = base.get(name, key.default)
        if not dataclasses.is_dataclass(current):
            continue
        for inner, field in settable(type(current)).items():
            for value in wrong_values(field.type):
                if not is_refused(type(current), {**vars(current), inner: value}, []):
                    yield name, dataclasses.replace(current, **{inner: value})


def refusals(cls, base):
    """The refusals of each wrong value, and in a section of each two that are not refused alone."""
    found = []
    accepted = [
        (name, value)
        for name, value in changes(cls, base)
        if not is_refused(cls, {**base, name: value}, found)
    ]
    for one, other in itertools.combinations(accepted if cls is not Config else (), 2):
        if one[0] != other[0]:
            is_refused(cls, {**base, **dict((one, other))}, found)
    return found


def sections():
    """Place in a configuration, class, and the values it needs."""
    for algorithm in ALGORITHMS:
        yield f"algorithm({algorithm})", "algorithm", algorithm_config(algorithm), {}
    for key in all_keys(settable(Config)):
        section = section_class(key.type)
        if section is not None:
            needed = {name: "x" for name, field in settable(section).items() if field.type is str}
            place = key.key.replace("[]", "[0]")
            yield place, place, section, needed
    offline = {
        "algorithm": algorithm_config("dpo")(),
        "run_dir": "x",
        "data": DataConfig(path="x", eval_size=1),
        "model": ModelSection(config={}),
        "tokenizer": "byte",
        "checkpoint": CheckpointConfig(keep_best=1, best_metric="rewards/accuracy"),
    }
    online = {
        **offline,
        "algorithm": algorithm_config("grpo")(),
        "model": ModelSection(path="x"),
        "rewards": (RewardConfig(function="math"),),
    }
    yield "offline", "", Config, offline
    yield "online", "", Config, online
    yield "compare", "", CompareConfig, {"runs": (StageConfig(name="a"),), "run_dir": "x"}


CASES = list(sections())


@pytest.mark.parametrize(
    ("place", "cls", "base"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_refusal_begins_with_the_key(place, cls, base):
    base = {name: value for name, value in base.items() if name in settable(cls)}
    keys = settable(cls)
    found = refusals(cls, base)
    for error in found:
        told = str(Context().refused(error, place, keys))
        names = "|".join(keys)
        wanted = rf"({names})\b" if not place else rf"{re.escape(place)}\.({names})\b"
        assert re.match(wanted, told), told
        assert "\n" not in told
    assert bool(found) == ("__post_init__" in vars(cls)), "the values above must provoke refusals"
