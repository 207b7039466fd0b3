"""Reading and writing a run's configuration: YAML file + `section.key=value` overrides -> `Config`
-> YAML."""

import dataclasses
import itertools
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from rlhf_jax.algorithms import ALGORITHMS, algorithm_config, algorithm_name, find_algorithm
from rlhf_jax.algorithms.presets import preset_options
from rlhf_jax.checked import shown
from rlhf_jax.config.build import Context, build
from rlhf_jax.config.document import (
    parse_document,
    parse_value,
    read_document,
    render,
    settled,
    text_of,
)
from rlhf_jax.config.errors import ConfigError, did_you_mean, one_line
from rlhf_jax.config.schema import Config
from rlhf_jax.fields import plain

NOTHING: Mapping[str, Any] = MappingProxyType({})


def load_config(
    path: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    given: Mapping[str, Any] = NOTHING,
    trusted: bool = True,
) -> Config:
    """Read a configuration file, apply overrides, check everything.

    Args:
        path: a YAML file.
        overrides: `section.key=value` each, `rewards[0].weight=2` inside a list; the value is a
            YAML scalar, or flow syntax (`[a, b]`, `{a: 1}`); later ones win.
        given: `section.key` -> value that a program sets; it wins over file and overrides.
        trusted: whether an algorithm may be imported that the file names by its own file; False for
            a run folder that may have come from somebody else.

    Returns:
        The complete configuration.

    Raises:
        ConfigError: anything wrong, in one line with key, value, what is allowed, the nearest match
          and the place.
    """
    document = read_document(pathlib.Path(path))
    sources = document.places(path)
    return _assemble(document.tree, sources, overrides, given=given, trusted=trusted)


def make_config(
    tree: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    *,
    given: Mapping[str, Any] = NOTHING,
) -> Config:
    """`load_config` for nested dicts instead of a file.

    Args:
        tree: as a file would hold it: `{"algorithm": {"name": "dpo"}, "run_dir": "runs/x", ...}`;
          a section may be an instance of its class, the algorithm's included.
        overrides: `section.key=value` each.
        given: see `load_config`.

    Raises:
        ConfigError: as `load_config`; or a value that no file could hold.
    """
    return _assemble(parsed_tree(tree or {}), {}, overrides, given=given)


def parsed_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts as if they had been read from a file.

    Raises:
        ConfigError: a value that no file could hold, such as a function.
    """
    return parse_document(render(_writable(tree, "")), "config").tree


def _writable(value: Any, key: str) -> Any:
    """A value as a file would hold it."""
    if isinstance(value, Mapping):
        return {
            str(name): _writable(part, f"{key}.{name}" if key else str(name))
            for name, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [_writable(part, f"{key}[{place}]") for place, part in enumerate(value)]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {"name": algorithm_name(value)} if key == "algorithm" else {}
        return own | plain(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    hint = ""
    if callable(value):
        hint = "; reward functions are handed over: rlhf_jax.train(..., rewards=[f])"
    raise ConfigError(f"{key}: {shown(value)} is nothing that a configuration can hold{hint}")


def dump_config(config: Config, path: str | os.PathLike[str]) -> None:
    """Write the complete configuration, every default included, as YAML that `load_config` reads
    back equal."""
    pathlib.Path(path).write_text(config.to_yaml(), encoding="utf-8")


def _assemble(
    tree: dict[str, Any],
    sources: dict[str, str],
    overrides: Sequence[str],
    *,
    given: Mapping[str, Any],
    trusted: bool = True,
) -> Config:
    for override in overrides:
        apply_override(tree, override, sources)
    for key, value in given.items():
        _put(tree, key, value)
    context = Context(sources)
    algorithm, options = _choose_algorithm(tree, context, trusted=trusted)
    return build(Config, tree | {"algorithm": options}, context=context, algorithm=algorithm)


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Puts in a value that a program sets."""
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(tree.get(section), dict):
            tree[section] = {}
        tree = tree[section]
    tree[name] = parsed_tree({"value": value})["value"]


def apply_override(tree: dict[str, Any], override: str, sources: dict[str, str]) -> None:
    """Puts the value of an override into a parsed tree, and its place among the sources."""
    name = f"override {override!r}"
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise ConfigError(f"{name}: write section.key=value, for example training.batch_size=8")
    words = re.findall(r"\[\d+\]|(?:(?!\[\d+\])[^.])+", key)  # `[0]` is a place of a list
    parts = [int(word[1:-1]) if re.fullmatch(r"\[\d+\]", word) else word for word in words]
    target: Any = tree
    for part, following in itertools.pairwise(parts):
        below = _below(target, part, name)
        if not isinstance(below, list if isinstance(following, int) else dict):
            below = target[part] = {}
        target = below
    _below(target, parts[-1], name)
    target[parts[-1]] = parse_value(text, name)
    for known in [known for known in sources if known.startswith((key + ".", key + "["))]:
        del sources[known]
    sources[key] = name


def _below(target: Any, part: str | int, name: str) -> Any:
    """What stands under a key, None when nothing does, or at a place of a list."""
    if isinstance(part, str):
        return target.get(part)
    count = len(target) if isinstance(target, list) else 0
    if part >= count:
        text = f"there is no [{part}]: the list has {count} items, counted from 0"
        raise ConfigError(f"{name}: {text}")
    return target[part]


def _choose_algorithm(
    tree: dict[str, Any], context: Context, *, trusted: bool
) -> tuple[type, dict[str, Any]]:
    """The class that `algorithm.name` names now, and the other keys of the section."""
    section = tree.get("algorithm")
    names = ", ".join(ALGORITHMS)
    if not isinstance(section, dict) or "name" not in section:
        said = "required and not given" if section is None else f"{settled(section)!r} has no name"
        text = f"{said}; allowed: {names}; for example algorithm: {{name: dpo}}"
        raise context.error("algorithm.name", f"algorithm.name: {text}")
    name = text_of(section["name"])
    if ":" in name:
        _import_algorithm(name, context, trusted=trusted)
    if name not in ALGORITHMS:
        text = f"{name!r} is not an algorithm; allowed: {names}{did_you_mean(name, ALGORITHMS)}"
        raise context.error("algorithm.name", f"algorithm.name: {text}")
    cls = algorithm_config(name)
    options = {key: item for key, item in section.items() if key != "name"}
    # A preset's options are defaults: what is given wins.
    return cls, {**preset_options(cls, settled(options.get("preset"))), **options}


def _import_algorithm(name: str, context: Context, *, trusted: bool) -> None:
    """Runs the file or module that defines an algorithm, if this configuration may."""
    if not trusted:
        text = f"{name!r} is code that would be run: look at it, and add --trust-rewards"
        raise context.error("algorithm.name", f"algorithm.name: {text} if you trust it")
    try:
        find_algorithm(name)
    except Exception as error:  # whatever the user's module raises when it is imported
        raise context.error("algorithm.name", f"algorithm.name: {one_line(error)}") from error
