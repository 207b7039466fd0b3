"""Raw rows with their place ("file:line") from files, folders, the hub and generators.

JSON lines and CSV are read here, line by line, because `datasets`' readers fail as a whole on one
bad line and guess column types; parquet, saved datasets and the hub go through `datasets` (imported
where it is needed: it takes a second).
"""

import codecs
import csv
import dataclasses
import difflib
import gzip
import hashlib
import io
import json
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.errors import BadRow, DataError
from rlhf_jax.data.synthetic import is_synthetic, synthetic_rows

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
MAX_LINE_BYTES = 64 << 20
"""Of a line of JSON lines or CSV, and of a field of CSV."""
MAX_JSON_BYTES = 1 << 30
"""Of a whole .json file, which is parsed in one piece."""
_ARRAY = "; a file that is one JSON array must be named .json, in .jsonl each line is an object"
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
    if _is_here(name) and not all(
        _is_here(place) for place in (config.path, config.eval_path) if place is not None
    ):
        return Source(name, split)
    return Source(name, split, config.subset, config.data_dir)


def _is_here(name: str) -> bool:
    return is_synthetic(name) or pathlib.Path(name).exists()


def _has_one_split(name: str) -> bool:
    """Whether all rows are one split, "train": generated data, a file, a dataset without splits."""
    path = pathlib.Path(name)
    return is_synthetic(name) or path.is_file() or (path / "state.json").is_file()


def _check_options(source: Source) -> None:
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


def read_rows(source: Source, kind: str) -> Iterator[RawRow]:
    """All rows of a source, bad ones included. `kind` chooses what a generator makes.

    Raises:
        DataError: a file is missing, empty, or of a type that is not read; a hub dataset cannot be
            had; `split`, `subset` or `data_dir` cannot apply to the path.
    """
    _check_options(source)
    if is_synthetic(source.name):
        for number, columns in enumerate(synthetic_rows(source.name, kind), start=1):
            yield RawRow(f"{source.name} row {number}", columns)
    elif pathlib.Path(source.name).exists():
        for part in _local_files(source):
            yield from _read_saved(part, source) if part.is_dir() else _read_file(part)
    else:
        yield from _read_hub(source)


def source_fingerprint(source: Source, kind: str) -> str:
    """Hash of the content: file bytes, or the generator's name with its options."""
    _check_options(source)
    digest = hashlib.sha256()
    if is_synthetic(source.name):
        digest.update(f"{source.name} {kind}".encode())
    elif pathlib.Path(source.name).exists():
        for part in _local_files(source):
            for file in sorted(part.rglob("*.arrow")) if part.is_dir() else [part]:
                _hash_file(file, digest)
    else:
        for file in sorted(entry["filename"] for entry in _load_hub(source).cache_files):
            _hash_file(pathlib.Path(file), digest)
    return digest.hexdigest()


def _hash_file(file: pathlib.Path, digest: Any) -> None:
    digest.update(f"\0{file.suffix}\0{file.stat().st_size}\0".encode())
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)


def _local_files(source: Source) -> list[pathlib.Path]:
    """The files (or saved datasets) of a path that belong to the split."""
    path = pathlib.Path(source.name)
    if path.is_file():
        if _kind_of(path) not in SUFFIXES:
            raise DataError(
                f"{path} is not a data file that can be read: expected one of "
                f"{', '.join(SUFFIXES)} (.gz allowed)"
            )
        return [path]
    if (path / "state.json").is_file():
        return [path]
    if (path / "dataset_dict.json").is_file():
        splits = sorted(child.name for child in path.iterdir() if child.is_dir())
        if source.split not in splits:
            raise DataError(f"split {source.split!r} is not in {path}: it has {', '.join(splits)}")
        return [path / source.split]
    files = sorted(
        file for file in path.rglob("*") if file.is_file() and _kind_of(file) in SUFFIXES
    )
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


def _kind_of(file: pathlib.Path) -> str:
    return pathlib.Path(file.stem).suffix if file.suffix == ".gz" else file.suffix


def _read_file(file: pathlib.Path) -> Iterator[RawRow]:
    kind = _kind_of(file)
    if kind == ".parquet":
        yield from _read_parquet(file)
        return
    with _open(file) as stream:
        try:
            if kind == ".csv":
                yield from _read_csv(file, stream)
            elif kind == ".json":
                yield from _read_json(file, stream)
            else:
                yield from _read_json_lines(file, stream)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{file} is not a whole gzip file: {error}") from None


def _open(file: pathlib.Path) -> io.BufferedIOBase:
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")


def _lines(file: pathlib.Path, stream: io.BufferedIOBase) -> Iterator[bytes]:
    """Lines of a file, none of which may fill the memory: 2 MiB of gzip can hold one of 3 GiB."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise DataError(
                f"{file} has a line of more than {MAX_LINE_BYTES >> 20} MiB: one row is one line"
            )
        yield line


def _text_lines(lines: Iterable[bytes]) -> Iterator[str]:
    """Lines of text. Bytes that are not UTF-8 become lone surrogates: they spoil one line only."""
    for index, line in enumerate(lines):
        text = line.decode("utf-8" if index else "utf-8-sig", "surrogateescape")
        yield from io.StringIO(text, newline="")  # a lone carriage return ends a line too


def _not_utf8(text: str) -> BadRow | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return BadRow(
            "invalid UTF-8",
            f"invalid UTF-8 (byte 0x{ord(text[error.start]) - 0xDC00:02x}): save the file as UTF-8",
        )
    return None


def _read_json_lines(file: pathlib.Path, stream: io.BufferedIOBase) -> Iterator[RawRow]:
    for number, line in enumerate(_text_lines(_lines(file, stream)), start=1):
        if line.strip():
            yield _json_row(f"{file}:{number}", line)


def _json_row(where: str, line: str) -> RawRow:
    if bad := _not_utf8(line):
        return RawRow(where, None, bad)
    try:
        columns = json.loads(line)
    except RecursionError:
        return RawRow(where, None, BadRow("invalid JSON", "invalid JSON (nested too deeply)"))
    except ValueError as error:
        hint = _ARRAY if line.lstrip().startswith("[") else ""
        return RawRow(
            where,
            None,
            BadRow("invalid JSON", f"invalid JSON ({' '.join(str(error).split())}){hint}"),
        )
    if isinstance(columns, list):
        return RawRow(
            where, None, BadRow("wrong type", f"expected a JSON object, found a list{_ARRAY}")
        )
    return _object_row(where, columns)


def _object_row(where: str, columns: Any) -> RawRow:
    if not isinstance(columns, dict):
        return RawRow(
            where,
            None,
            BadRow("wrong type", f"expected a JSON object, found {type(columns).__name__}"),
        )
    return RawRow(where, columns)


def _read_json(file: pathlib.Path, stream: io.BufferedIOBase) -> Iterator[RawRow]:
    """A JSON array of objects; a .json file with one object a line is read as JSON lines."""
    content = stream.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise DataError(
            f"{file} holds more than {MAX_JSON_BYTES >> 20} MiB: write it as .jsonl, a row a line"
        )
    if not content.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        yield from _read_json_lines(file, io.BytesIO(content))
        return
    try:
        rows = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}:{number}: invalid UTF-8 (byte 0x{error.object[error.start]:02x}): save the "
            "file as UTF-8"
        ) from None
    except RecursionError:
        raise DataError(f"{file} is not valid JSON: nested too deeply") from None
    except ValueError as error:
        raise DataError(f"{file} is not valid JSON: {error}") from None
    for number, columns in enumerate(rows, start=1):
        yield _object_row(f"{file} row {number}", columns)


def _read_csv(file: pathlib.Path, stream: io.BufferedIOBase) -> Iterator[RawRow]:
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.DictReader(_text_lines(_lines(file, stream)), strict=True)
    try:
        count = len(reader.fieldnames or ())
        if bad := _not_utf8("".join(reader.fieldnames or ())):
            raise DataError(f"{file}:1: {bad.detail}")
    except csv.Error as error:
        raise DataError(f"{file}:1: the header is not valid CSV ({error})") from None
    while True:
        where = f"{file}:{reader.reader.line_num + 1}"
        try:
            row: dict[Any, Any] | None = next(reader, None)
        except csv.Error as error:
            yield RawRow(where, None, BadRow("invalid CSV", f"invalid CSV ({error})"))
            continue
        if row is None:
            return
        if None in row or None in row.values():
            yield RawRow(
                where,
                None,
                BadRow("invalid CSV", f"the line does not have the header's {count} fields"),
            )
        elif bad := _not_utf8("".join(row.values())):
            yield RawRow(where, None, bad)
        else:
            yield RawRow(where, row)


def _read_parquet(file: pathlib.Path) -> Iterator[RawRow]:
    import datasets

    try:
        rows = datasets.load_dataset("parquet", data_files=str(file), split="train", streaming=True)
        for number, columns in enumerate(_undecoded(rows), start=1):
            yield RawRow(f"{file} row {number}", without_filling(columns))
    except Exception as error:
        raise DataError(
            f"{file} cannot be read as parquet: {' '.join(str(error).split())[:200]}"
        ) from None


def _read_saved(folder: pathlib.Path, source: Source) -> Iterator[RawRow]:
    import datasets

    try:
        _check_saved_files(folder)
        rows = _undecoded(datasets.load_from_disk(str(folder)).to_iterable_dataset())
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


def _undecoded(rows: Any) -> Any:
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


def _read_hub(source: Source) -> Iterator[RawRow]:
    for number, columns in enumerate(_undecoded(_load_hub(source).to_iterable_dataset()), start=1):
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


def _load_hub(source: Source) -> Any:
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
        path, folder = folder, folder.parent
    close = difflib.get_close_matches(path.name, [child.name for child in folder.iterdir()], n=1)
    return f"; nearest: {folder / close[0]}" if close else f" (nothing of that name in {folder})"
