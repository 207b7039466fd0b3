"""Reading and writing a run's configuration: YAML file + `section.key=value` overrides -> `Config` -> YAML."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from rlhf_jax.algorithms import ALGORITHMS, algorithm_config
from rlhf_jax.config.build import Context, build, unknown_key
from rlhf_jax.config.document import Document, Plain, parse_document, parse_value, render, settled
from rlhf_jax.config.errors import ConfigError, did_you_mean, nearest
from rlhf_jax.config.fields import dotted_keys, settable
from rlhf_jax.config.schema import Config, algorithm_name

RESUMABLE = ("run_dir", "mesh", "checkpoint", "logging", "training.eval_every", "training.save_every", "training.log_every")
"""Keys that may differ between a run and its continuation: they change what is written or where it runs, not what is learnt."""


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file, apply overrides, check everything.

    Args:
        path: a YAML file.
        overrides: `section.key=value` each; the value is a YAML scalar, or flow syntax (`[a, b]`, `{a: 1}`); later ones win.

    Returns:
        The complete configuration.

    Raises:
        ConfigError: anything wrong, in one line with key, value, what is allowed, the nearest match and the place.
    """
    document = _read(pathlib.Path(path))
    return _assemble(document.tree, {key: f"{path} line {line}" for key, line in document.lines.items()}, overrides)


def make_config(tree: dict[str, Any] | None = None, overrides: Sequence[str] = ()) -> Config:
    """`load_config` for nested dicts instead of a file: `make_config({"algorithm": {"name": "dpo"}, "run_dir": "runs/x"})`."""
    return _assemble(parse_document(render(tree or {}), "config").tree, {}, overrides)


def dumps_config(config: Config) -> str:
    """The complete configuration as YAML, every default written out; `load_config` reads it back equal."""
    return render(config_tree(config))


def dump_config(config: Config, path: str | os.PathLike[str]) -> None:
    """Write `dumps_config(config)` to a file."""
    pathlib.Path(path).write_text(dumps_config(config), encoding="utf-8")


def config_tree(config: Config) -> dict[str, Any]:
    """The complete configuration as nested dicts (what W&B and checkpoints store)."""
    tree: dict[str, Any] = {}
    for name in settable(Config):
        section = config.__dict__[name]
        if name == "algorithm":
            tree[name] = {"name": algorithm_name(section), **_plain(section)}
        else:
            tree[name] = _plain(section)
    return tree


def changed_keys(config: Config, path: str | os.PathLike[str]) -> list[str]:
    """What a continuation would learn differently from the run that wrote `path`.

    Args:
        config: the configuration of the continuation.
        path: config.yaml of the run folder.

    Returns:
        `key: old -> new` for every difference outside `RESUMABLE`, empty when the run can go on.

    Raises:
        ConfigError: `path` cannot be read.
    """
    old = _flat(settled(_read(pathlib.Path(path)).tree))
    new = _flat(settled(parse_document(dumps_config(config), "config").tree))
    return [
        f"{key}: {old.get(key, 'absent')!r} -> {new.get(key, 'absent')!r}"
        for key in sorted(old.keys() | new.keys())
        if repr(old.get(key)) != repr(new.get(key)) and not any(key == free or key.startswith(free + ".") for free in RESUMABLE)
    ]


def _assemble(tree: dict[str, Any], sources: dict[str, str], overrides: Sequence[str]) -> Config:
    for override in overrides:
        _apply(tree, override, sources)
    algorithm_class, algorithm_tree = _choose_algorithm(tree, sources)
    known = tuple(dotted_keys(Config)) + tuple(dotted_keys(algorithm_class, "algorithm."))
    context = Context(sources, known)
    for name in tree:
        if name not in settable(Config):
            raise unknown_key(name, tuple(settable(Config)), context)
    algorithm = build(algorithm_class, algorithm_tree, prefix="algorithm", context=context)
    return build(Config, tree | {"algorithm": algorithm}, context=context)


def _read(path: pathlib.Path) -> Document:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file{_similar_file(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    return parse_document(text, str(path))


def _similar_file(path: pathlib.Path) -> str:
    folders = (path.parent, pathlib.Path("configs"), pathlib.Path())
    found = [file for folder in folders if folder.is_dir() for file in sorted(folder.glob("*.y*ml"))]
    match = nearest(path.stem, [file.stem for file in found])
    return f"; did you mean '{next(file for file in found if file.stem == match)}'?" if match is not None else ""


def _apply(tree: dict[str, Any], override: str, sources: dict[str, str]) -> None:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key or any(not part for part in key.split(".")):
        raise ConfigError(f"override {override!r}: write section.key=value, for example training.batch_size=8")
    name = f"override {override!r}"
    parts = key.split(".")
    target = tree
    for part in parts[:-1]:
        below = target.get(part)
        if not isinstance(below, dict):
            below = target[part] = {}
        target = below
    target[parts[-1]] = parse_value(text, name)
    for known in [known for known in sources if known.startswith(key + ".")]:
        del sources[known]
    sources[key] = name


def _choose_algorithm(tree: dict[str, Any], sources: dict[str, str]) -> tuple[type, dict[str, Any]]:
    section = tree.get("algorithm")
    where = Context(sources).where("algorithm.name")
    names = ", ".join(ALGORITHMS)
    if not isinstance(section, dict) or "name" not in section:
        shown = f"{settled(section)!r} has no name" if section is not None else "required and not given"
        raise ConfigError(f"algorithm.name: {shown}; allowed: {names}; for example algorithm: {{name: dpo}}{where}")
    value = section["name"]
    name = value.text if isinstance(value, Plain) else str(settled(value))
    if name not in ALGORITHMS:
        raise ConfigError(
            f"algorithm.name: {name!r} is not an algorithm; allowed: {names}{did_you_mean(name, ALGORITHMS)}{where}"
        )
    return algorithm_config(name), {key: item for key, item in section.items() if key != "name"}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {name: _plain(value.__dict__[name]) for name in settable(type(value))}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat
