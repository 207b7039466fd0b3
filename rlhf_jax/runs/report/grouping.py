"""Which runs are seeds of one configuration, what differs between configurations, and how both are
called."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from rlhf_jax.runs.report.reading import Run

UNIMPORTANT = (
    "run_dir",
    "seed",
    "logging.",
    "checkpoint.",
    "reward_pool.",
    "distributed.",
    "training.compilation_cache",
    "training.save_every",
    "training.save_before",
    "training.log_every",
    "data.num_proc",
    "rollout.record",
)
"""Keys that change what is written, not what is learnt: runs that differ in these alone are seeds
of one configuration."""
SEED_NAMES = ("seed", "s")
MISSING = object()
"""Of a key that a run does not have."""


class Group(NamedTuple):
    """Runs of one configuration with different seeds, or one run."""

    name: str
    runs: list[int]
    """Numbers of its runs, in the order given."""


class Difference(NamedTuple):
    """One key of the configuration that not all groups agree on."""

    key: str
    values: list[str]
    """One per group; "-" where the key does not exist."""
    shared: bool
    """Whether every group has the key."""


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Seeds together, in the order in which they were given."""
    found: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        # A run whose configuration is unknown is like no other.
        same = fingerprint(run) if run.tree else f"unknown {number}"
        found.setdefault(same, []).append(number)
    # One seed twice is no second seed: it may be a copy, or a repetition that ought to agree.
    names = group_names([[runs[number].path for number in group] for group in found.values()])
    return [Group(name, group) for name, group in zip(names, found.values(), strict=True)]


def fingerprint(run: Run) -> str:
    """Equal for runs that learn the same but for their seed."""
    values = {key: value for key, value in run.config.items() if is_important(key)}
    return json.dumps(values, sort_keys=True, default=str)


def is_important(key: str) -> bool:
    """Whether a key says something of what is learnt."""
    return not key.startswith(UNIMPORTANT)


def group_names(groups: Sequence[Sequence[pathlib.Path]]) -> list[str]:
    """A short name for each group of run folders: as much of the path as tells them apart."""
    shared = [common_part(paths) for paths in groups]
    names = shortest_names(shared)
    # Two configurations may have their seeds in one folder: then the folder tells nothing.
    for place, name in enumerate(names):
        if names.count(name) > 1:
            names[place] = ", ".join(shortest_names([path.resolve() for path in groups[place]]))
    return names


def common_part(paths: Sequence[pathlib.Path]) -> pathlib.Path:
    """The folder of several runs; a single run's own, but not where that is only its seed."""
    resolved = [path.resolve() for path in paths]
    if len(resolved) > 1:
        common = pathlib.Path(os.path.commonpath(resolved))
        stems = os.path.commonprefix([path.relative_to(common).parts[0] for path in resolved])
        # runs/grpo_0 and runs/grpo_1 are grpo
        stem = strip_seed(stems)
        return common / stem if stem else common
    return resolved[0].parent if is_seed(resolved[0].name) else resolved[0]


def is_seed(name: str) -> bool:
    """Whether a folder is called after its seed: seed_0, seed0, s3, 1."""
    return strip_seed(name.rstrip("0123456789")) == "" and name[-1:].isdigit()


def strip_seed(stem: str) -> str:
    """What is left of a name without its seed and the punctuation before it."""
    stem = stem.rstrip("-_. ")
    for word in SEED_NAMES:
        before = stem[: len(stem) - len(word)]
        if stem == word or (stem.endswith(word) and before[-1:] in ("-", "_", ".")):
            return before.rstrip("-_. ")
    return stem


def shortest_names(paths: Sequence[pathlib.Path]) -> list[str]:
    """The last parts of paths, as many as it takes to tell them apart."""
    parts = [path.parts for path in paths]
    longest = max((len(part) for part in parts), default=1)
    for taken in range(1, longest + 1):
        names = ["/".join(part[-taken:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [str(path) for path in paths]


def differences(runs: Sequence[Run], groups: Sequence[Group]) -> list[Difference]:
    """Keys of the configuration in which groups differ, and each one's value; at the end those that
    not all of them have, because their algorithms differ."""
    if len(groups) < 2:
        return []
    configs = [runs[group.runs[0]].config for group in groups]
    keys = dict.fromkeys(key for config in configs for key in config if is_important(key))
    shared: list[Difference] = []
    partial: list[Difference] = []
    for key in keys:
        values = [config.get(key, MISSING) for config in configs]
        texts = [show_value(value) for value in values]
        if len(set(texts)) > 1:
            place = partial if MISSING in values else shared
            place.append(Difference(key, texts, MISSING not in values))
    return shared + partial


def show_value(value: Any) -> str:
    """A value of a configuration as YAML's flow style would write it."""
    if value is MISSING:
        return "-"
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
