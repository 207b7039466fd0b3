"""What a caller of `train` gives, as one configuration: a mapping, a file or a `Config`, and beside
it rows, reward functions, a model and a tokenizer."""

import atexit
import dataclasses
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_jax.checked import shown
from rlhf_jax.config import Config, ConfigError, load_config, make_config
from rlhf_jax.config.build import build
from rlhf_jax.config.document import read_document, settled
from rlhf_jax.config.load import parsed_tree
from rlhf_jax.data import FastTokenizer, load_tokenizer
from rlhf_jax.data.handed_rows import hand_rows
from rlhf_jax.rewards import RewardConfig
from rlhf_jax.rewards.local import split_handed
from rlhf_jax.runs.trees import Given

_log = logging.getLogger(__name__)
_DIGITS = 16


class Arguments(NamedTuple):
    """A run as its caller means it."""

    config: Config
    objects: Mapping[str, Any]
    """What stands in the configuration under a name (`rlhf_jax.handed`)."""
    model: Given | None
    is_temporary: bool
    """The run folder goes when the program ends."""


def settle(
    config: Config | Mapping[str, Any] | str | os.PathLike[str],
    *,
    data: Any = None,
    eval_data: Any = None,
    rewards: Sequence[Any] | None = None,
    model: Any = None,
    tokenizer: Any = None,
) -> Arguments:
    """Puts all that a caller gives into one configuration. See `train` for the arguments.

    Raises:
      ValueError: one of them is not what it should be, in one line.
    """
    given: dict[str, Any] = {}
    objects: dict[str, Any] = {}
    for key, rows, argument in (("path", data, "data"), ("eval_path", eval_data, "eval_data")):
        if rows is not None:
            name, held = hand_rows(rows, argument)
            objects[name] = held
            given[f"data.{key}"] = name
    if data is not None:
        given |= {"data.split": "train", "data.subset": None, "data.data_dir": None}
    if eval_data is not None:
        given |= {"data.eval_split": None, "data.eval_fraction": 0.0, "data.eval_size": 0}
    if rewards is not None:
        written, functions = split_handed(_listed(rewards))
        given["rewards"] = written
        objects |= functions
    functions_of, tokenizer_of = _model(model, given)
    if tokenizer is None:
        tokenizer = tokenizer_of
    if isinstance(tokenizer, str | os.PathLike):
        given["tokenizer"] = os.fspath(tokenizer)
    elif tokenizer is not None:
        own = _fast(tokenizer)
        given["tokenizer"] = f"<tokenizer {own.fingerprint()[:_DIGITS]}>"
        objects[given["tokenizer"]] = own
    if isinstance(config, Config):
        return Arguments(_changed(config, given), objects, functions_of, False)
    folder = None
    if not _has_run_dir(config):
        folder = given["run_dir"] = _temporary_folder()
    if isinstance(config, Mapping):
        whole = make_config(config, given=given)
    else:
        whole = load_config(config, given=given)
    return Arguments(whole, objects, functions_of, folder is not None)


def _listed(rewards: Any) -> Sequence[Any]:
    if isinstance(rewards, str | Mapping | RewardConfig) or not isinstance(rewards, Iterable):
        raise ConfigError(f"rewards={shown(rewards)}: give a list, rewards=[f]")
    return list(rewards)


def _model(model: Any, given: dict[str, Any]) -> tuple[Given | None, Any]:
    """(functions and parameters that are given, the tokenizer that comes with them)."""
    if model is None:
        return None, None
    path = os.fspath(model) if isinstance(model, str | os.PathLike) else None
    given |= {"model.path": path, "model.config": None, "model.given": path is None}
    if path is not None:
        return None, None
    if not isinstance(model, tuple) or len(model) not in (2, 3):
        raise ConfigError(
            f"model={shown(model)}: give a folder or hub id, (model, params), or what "
            "rlhf_jax.load returns"
        )
    functions, params, *others = model
    return (functions, params), next(iter(others), None)


def _fast(tokenizer: Any) -> FastTokenizer:
    """A tokenizer of the library, of one of transformers if need be."""
    if isinstance(tokenizer, FastTokenizer):
        return tokenizer
    if not hasattr(tokenizer, "save_pretrained"):
        raise ConfigError(
            f"tokenizer={shown(tokenizer)}: give a folder or hub id, what rlhf_jax.load_tokenizer "
            "returns, or a tokenizer of transformers"
        )
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return load_tokenizer(folder)


def _changed(config: Config, given: Mapping[str, Any]) -> Config:
    """A configuration with the values that a caller sets."""
    sections: dict[str, dict[str, Any]] = {}
    top: dict[str, Any] = {}
    for key, value in given.items():
        section, _, name = key.rpartition(".")
        (sections.setdefault(section, {}) if section else top)[name] = value
    if "rewards" in top:
        trees = parsed_tree({"rewards": top["rewards"]})["rewards"]
        top["rewards"] = tuple(build(RewardConfig, tree) for tree in trees)
    for section, values in sections.items():
        top[section] = dataclasses.replace(vars(config)[section], **values)
    return dataclasses.replace(config, **top)


def _has_run_dir(config: Mapping[str, Any] | str | os.PathLike[str]) -> bool:
    if isinstance(config, Mapping):
        return config.get("run_dir") is not None
    if not isinstance(config, str | os.PathLike):
        raise ConfigError(
            f"config={shown(config)}: give a nested dict, the path of a YAML file or a Config"
        )
    tree: dict[str, Any] = settled(read_document(pathlib.Path(config)).tree)
    return tree.get("run_dir") is not None


def _temporary_folder() -> str:
    """A folder that goes when the program ends."""
    folder = tempfile.mkdtemp(prefix="rlhf_jax-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _log.info(
        "run_dir is not given: the run is in %s, which is deleted when this program ends; give "
        "run_dir to keep it",
        folder,
    )
    return folder
