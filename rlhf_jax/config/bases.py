"""A comparison that goes on from another one's file, and runs that differ from another in a few
options: both are written out before anything is checked.

    base: long_sums.yaml          # beside this file: all of its sections, this file's laid over
    run_dir: runs/mine
    runs:
      - grpo                      # the base's run of that name
      - {name: mine, like: grpo, config: {algorithm: {name: "mine.py:mine"}}}
"""

import copy
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_jax.config.build import Context
from rlhf_jax.config.document import Plain, read_document, settled, text_of
from rlhf_jax.config.errors import ConfigError, did_you_mean

STAGES = ("preparations", "runs")
"""Sections that are lists of stages, each with a name."""


class Written(NamedTuple):
    """A comparison's tree without `base` and `like`."""

    tree: dict[str, Any]
    sources: dict[str, str]
    """Dotted key -> where it was given."""


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts laid over each other; every other value of `above` takes the place of the one
    below."""
    result = dict(below)
    for name, value in above.items():
        under = result.get(name)
        result[name] = (
            merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
        )
    return result


def read_with_base(path: str | os.PathLike[str]) -> Written:
    """The file of a comparison, on top of those that it names as its base.

    Raises:
        ConfigError: a file that cannot be read, is its own base, or names a run that there is not.
    """
    return _read(pathlib.Path(path), ())


def write_out(tree: dict[str, Any], sources: Mapping[str, str], folder: pathlib.Path) -> Written:
    """`read_with_base` of a tree that stands in no file; its base is found from `folder`."""
    return _written(Written(tree, dict(sources)), folder, ())


def _read(path: pathlib.Path, above: Sequence[pathlib.Path]) -> Written:
    if path.resolve() in above:
        raise ConfigError(f"{path}: is named as a base by itself or by its own base")
    document = read_document(path)
    own = Written(document.tree, document.places(path))
    return _written(own, path.parent, (*above, path.resolve()))


def _written(own: Written, folder: pathlib.Path, above: Sequence[pathlib.Path]) -> Written:
    below = Written({}, {})
    if "base" in own.tree:
        name = settled(own.tree.pop("base"))
        if not isinstance(name, str):
            raise Context(own.sources).error(
                "base", f"base: {name!r} must be the file of a comparison"
            )
        below = _read(folder / name, above)
        below.tree.pop("run_dir", None)  # two comparisons in one folder only where somebody says so
    tree = merged(below.tree, own.tree)
    sources = own.sources | {
        key: place
        for key, place in below.sources.items()
        if not ("[" in key and key.partition("[")[0] in own.sources)  # lists replace lists
    }
    for section in STAGES:
        if isinstance(own.tree.get(section), list):
            tree[section] = _stages(section, own, below, sources)
    return Written(tree, sources)


def _stages(section: str, own: Written, below: Written, sources: dict[str, str]) -> list[Any]:
    """The stages of a list; where one is only named it is the base's, and so are its places."""
    of_base = _named(below.tree.get(section))
    stages: list[Any] = []
    for place, stage in enumerate(own.tree[section]):
        here = f"{section}[{place}]"
        if isinstance(stage, str | Plain) and below.tree:
            name = text_of(stage)
            if name not in of_base:
                text = f"{here}: {name!r} is not in the base; what is: {_listed(of_base)}"
                raise Context(own.sources).error(here, text + did_you_mean(name, of_base))
            there = f"{section}[{below.tree[section].index(of_base[name])}]"
            sources |= {
                here + key.removeprefix(there): where
                for key, where in below.sources.items()
                if key.startswith(there)
            }
            stage = copy.deepcopy(of_base[name])  # overrides are put into it
        elif isinstance(stage, dict) and "like" in stage:
            stage = _like(stage, f"{here}.like", of_base | _named(stages), own)
        stages.append(stage)
    return stages


def _like(stage: dict[str, Any], key: str, known: dict[str, Any], own: Written) -> dict[str, Any]:
    """A stage whose configuration is laid over that of another one."""
    name = text_of(stage["like"])
    if name not in known:
        text = f"{key}: {name!r} is not earlier in the list and not in the base; what is: "
        raise Context(own.sources).error(key, text + _listed(known) + did_you_mean(name, known))
    config = known[name].get("config")
    if not isinstance(config, dict):
        raise Context(own.sources).error(
            key, f"{key}: {name!r} has no config that another could be like"
        )
    rest = {name: value for name, value in stage.items() if name != "like"}
    return merged({"config": copy.deepcopy(config)}, rest)


def _named(stages: Any) -> dict[str, dict[str, Any]]:
    """Name -> stage, of those that have one; what else stands in the list is refused later."""
    return {
        text_of(stage["name"]): stage
        for stage in (stages if isinstance(stages, list) else ())
        if isinstance(stage, dict) and isinstance(stage.get("name"), str | Plain)
    }


def _listed(known: Iterable[str]) -> str:
    return ", ".join(known) or "none"
