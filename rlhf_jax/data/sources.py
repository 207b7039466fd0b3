"""Where rows come from: files, folders, saved datasets, the hub and generators.

`raw_rows` reads a source, by `text_rows` (JSON lines, JSON, CSV) and `arrow_rows` (parquet, saved
datasets, the hub).
"""

import pathlib
import re
from typing import Any, NamedTuple

from rlhf_jax.cloud import fetched, is_address
from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.errors import BadRow, DataError
from rlhf_jax.data.synthetic import is_synthetic
from rlhf_jax.handed import is_handed

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_SPLIT_NAMES = ("train", "test", "validation", "valid", "val", "dev", "eval")


class RawRow(NamedTuple):
    """A row as read, before any check of its columns."""

    where: str
    """"file:line" (JSON lines, CSV) or "file row n" (counted from 1)."""
    columns: dict[str, Any] | None
    """None: the line could not be read at all."""
    error: BadRow | None = None


class Source(NamedTuple):
    """One place that rows come from."""

    name: str
    split: str
    subset: str | None = None
    data_dir: str | None = None


def train_source(config: DataConfig) -> Source:
    """Where training rows come from."""
    return _source(config, config.path, config.split)


def eval_source(config: DataConfig) -> Source | None:
    """Where held-out rows come from, when they have a place of their own (are no fraction)."""
    if config.eval_path is not None:
        inherited = "train" if _has_one_split(config.eval_path) else config.split
        return _source(config, config.eval_path, config.eval_split or inherited)
    if config.eval_split is not None:
        return _source(config, config.path, config.eval_split)
    return None


def _source(config: DataConfig, name: str, split: str) -> Source:
    """`subset` and `data_dir` go to the hub dataset where one of the two paths is local."""
    name = str(fetched(name, "data.path")) if is_address(name) else name
    if _is_here(name) and not all(
        _is_here(place) for place in (config.path, config.eval_path) if place is not None
    ):
        return Source(name, split)
    return Source(name, split, config.subset, config.data_dir)


def _is_here(name: str) -> bool:
    if is_address(name):
        return True
    return is_synthetic(name) or is_handed(name) or pathlib.Path(name).exists()


def _has_one_split(name: str) -> bool:
    """Whether all rows are one split, "train": generated data, rows in memory, a file, a dataset
    without splits."""
    if is_synthetic(name) or is_handed(name):
        return True
    path = fetched(name, "data.eval_path")
    return path.is_file() or (path / "state.json").is_file()


def check_options(source: Source) -> None:
    """Refuses options that do nothing here: another split must not be the training rows again."""
    if not _is_here(source.name):
        return
    for option, value in (("subset", source.subset), ("data_dir", source.data_dir)):
        if value is not None:
            raise DataError(
                f"data.{option} {value!r} is for hub datasets, {source.name} is not one: remove it "
                "or change the path"
            )
    if source.split != "train" and _has_one_split(source.name):
        raise DataError(
            f"split {source.split!r} is not in {source.name}, which has no splits: leave "
            "data.split as 'train', "
            "and hold rows out with data.eval_path, data.eval_fraction or data.eval_size"
        )


def local_files(source: Source) -> list[pathlib.Path]:
    """The files (or saved datasets) of a path that belong to the split."""
    path = pathlib.Path(source.name)
    if path.is_file():
        if kind_of(path) not in SUFFIXES:
            raise DataError(
                f"{path} is not a data file that can be read: expected one of "
                f"{', '.join(SUFFIXES)} (the first three also .gz)"
            )
        return [path]
    if (path / "state.json").is_file():
        return [path]
    if (path / "dataset_dict.json").is_file():
        splits = sorted(child.name for child in path.iterdir() if child.is_dir())
        if source.split not in splits:
            raise DataError(f"split {source.split!r} is not in {path}: it has {', '.join(splits)}")
        return [path / source.split]
    files = sorted(file for file in path.rglob("*") if file.is_file() and kind_of(file) in SUFFIXES)
    files = [file for file in files if file.name not in ("dataset_info.json", "dataset_infos.json")]
    if not files:
        raise DataError(f"folder {path} holds no data file: expected {', '.join(SUFFIXES)}")
    named = {file: name for file in files if (name := _split_of(file, path, source.split))}
    if not named and source.split == "train":
        return files
    chosen = [file for file in files if named.get(file) == source.split]
    if not chosen:
        found = ", ".join(sorted(set(named.values()))) or "no file named by split"
        raise DataError(f"split {source.split!r} is not in {path}: found {found}")
    return chosen


def _split_of(file: pathlib.Path, root: pathlib.Path, wanted: str) -> str | None:
    words = re.split(r"[^A-Za-z0-9]+", str(file.relative_to(root)))
    return next((name for name in (wanted, *_SPLIT_NAMES) if name in words), None)


def kind_of(file: pathlib.Path) -> str:
    """The suffix that says how to read a file, below .gz."""
    return pathlib.Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
