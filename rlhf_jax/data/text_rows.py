"""Rows of JSON lines, JSON and CSV files, with their place ("file:line").

They are read here, line by line, because the readers of `datasets` fail as a whole on one bad line
and guess column types.
"""

import codecs
import csv
import gzip
import io
import json
import pathlib
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from rlhf_jax.data.errors import BadRow, DataError
from rlhf_jax.data.sources import RawRow

MAX_LINE_BYTES = 64 << 20
"""Of a line of JSON lines or CSV, and of a field of CSV."""
MAX_JSON_BYTES = 1 << 30
"""Of a whole .json file, which is parsed in one piece."""
_ARRAY = "; a file that is one JSON array must be named .json, in .jsonl each line is an object"


PACKED_BADLY = (EOFError, gzip.BadGzipFile, zlib.error)
"""What reading a file of `open_file` raises that is packed, and cut short or damaged."""


def open_file(file: pathlib.Path) -> io.BufferedIOBase:
    """A file to read bytes from, unpacked."""
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


def read_json_lines(file: pathlib.Path, stream: io.BufferedIOBase) -> Iterator[RawRow]:
    """A row a line, each a JSON object."""
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


def read_json(file: pathlib.Path, stream: io.BufferedIOBase) -> Iterator[RawRow]:
    """A JSON array of objects; a .json file with one object a line is read as JSON lines."""
    content = stream.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise DataError(
            f"{file} holds more than {MAX_JSON_BYTES >> 20} MiB: write it as .jsonl, a row a line"
        )
    if not content.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        yield from read_json_lines(file, io.BytesIO(content))
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


def read_csv(file: pathlib.Path, stream: io.BufferedIOBase) -> Iterator[RawRow]:
    """A row a record; the first line names the columns."""
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
