"""Rows of parquet files, saved datasets and the hub, read through `datasets`.

`datasets` is imported where it is needed: it takes a second.
"""

import dataclasses
import difflib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from rlhf_jax.data.errors import DataError
from rlhf_jax.data.sources import SUFFIXES, RawRow, Source


def read_parquet(file: pathlib.Path) -> Iterator[RawRow]:
    """The rows of a parquet file."""
    import datasets

    try:
        rows = datasets.load_dataset("parquet", data_files=str(file), split="train", streaming=True)
        for number, columns in enumerate(undecoded(rows), start=1):
            yield RawRow(f"{file} row {number}", without_filling(columns))
    except Exception as error:
        raise DataError(
            f"{file} cannot be read as parquet: {' '.join(str(error).split())[:200]}"
        ) from None


def read_saved(folder: pathlib.Path, source: Source) -> Iterator[RawRow]:
    """The rows of a folder that `datasets` has saved."""
    import datasets

    try:
        _check_saved_files(folder)
        rows = undecoded(datasets.load_from_disk(str(folder)).to_iterable_dataset())
    except Exception as error:
        raise DataError(
            f"{folder} cannot be read as a saved dataset: {' '.join(str(error).split())[:200]}"
        ) from None
    for number, columns in enumerate(rows, start=1):
        yield RawRow(f"{source.name} row {number}", without_filling(columns))


def _check_saved_files(folder: pathlib.Path) -> None:
    """The files that a saved dataset names must be its own: state.json may come from a stranger."""
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    for entry in state["_data_files"]:
        if pathlib.PurePath(entry["filename"]).name != entry["filename"]:
            raise ValueError(
                f"state.json names {entry['filename']!r}, which is no file of this folder"
            )


def undecoded(rows: Any) -> Any:
    """An iterable dataset with images and sounds as stored: decoding would open what rows name."""
    return rows if rows.features is None else rows.cast(_plain_features(rows.features))


def _plain_features(feature: Any) -> Any:
    import datasets

    if isinstance(feature, dict):
        return type(feature)({name: _plain_features(part) for name, part in feature.items()})
    if isinstance(feature, list | tuple):
        return type(feature)(_plain_features(part) for part in feature)
    if not dataclasses.is_dataclass(feature) or isinstance(feature, datasets.Json | type):
        return feature
    options = {field.name for field in dataclasses.fields(feature) if field.init}
    if "decode" in options:
        return dataclasses.replace(feature, **{"decode": False})
    if "feature" in options:  # a list of something
        return dataclasses.replace(
            feature, **{"feature": _plain_features(vars(feature)["feature"])}
        )
    return feature


def read_hub(source: Source) -> Iterator[RawRow]:
    """The rows of a hub dataset."""
    for number, columns in enumerate(undecoded(load_hub(source).to_iterable_dataset()), start=1):
        yield RawRow(f"{source.name}[{source.split}] row {number}", without_filling(columns))


def without_filling(value: Any, *, inside: bool = False) -> Any:
    """Arrow gives every struct the keys of all, filled with null: not what a tool or a call has.

    Args:
        value: a row, or a part of one.
        inside: within `tools` or `tool_calls`, where null keys go. Elsewhere they stay: rewards may
          read them.
    """
    if isinstance(value, dict):
        kept = {key: part for key, part in value.items() if not (inside and part is None)}
        return {
            key: without_filling(part, inside=inside or key in ("tools", "tool_calls"))
            for key, part in kept.items()
        }
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [without_filling(part, inside=inside) for part in value]
    return value


def load_hub(source: Source) -> Any:
    """A hub dataset, downloaded."""
    path = pathlib.Path(source.name)
    if (
        source.name.count("/") > 1
        or path.suffix in (*SUFFIXES, ".gz")
        or source.name.startswith((".", "/", "~"))
    ):
        raise DataError(f"data file {path} does not exist{_nearest(path)}")
    import datasets

    try:
        return datasets.load_dataset(
            source.name, source.subset, data_dir=source.data_dir, split=source.split
        )
    except Exception as error:
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise DataError(
            f"{source.name!r} is neither a file nor a folder, and split {source.split!r} of a hub "
            "dataset of that name "
            f"cannot be had: check the name, data.subset, data.split and the network ({cause})"
        ) from None


def _nearest(path: pathlib.Path) -> str:
    """The existing file that was probably meant."""
    folder = path.parent
    while not folder.is_dir():
        path = folder
        folder = folder.parent
    close = difflib.get_close_matches(path.name, [child.name for child in folder.iterdir()], n=1)
    return f"; nearest: {folder / close[0]}" if close else f" (nothing of that name in {folder})"
