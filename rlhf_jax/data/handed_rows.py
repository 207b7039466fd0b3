"""Rows in memory: what `train(data=...)` gets, under a name that says how many and of what content.

The name stands in the configuration where a path would, so that such a run is fingerprinted,
cached and resumed as one of a file.
"""

import datetime
import decimal
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.data.arrow_rows import undecoded, without_filling
from rlhf_jax.data.errors import DataError
from rlhf_jax.data.sources import RawRow, Source
from rlhf_jax.handed import handed

_TEXT = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)
"""Values that their text stands for in a fingerprint (a `datetime` is a `date`)."""
_DIGITS = 16


class HandedRows(NamedTuple):
    """Rows as a caller gives them."""

    name: str
    """``<64 rows 3fa2b1c9d0e14f55>``: equal for equal rows."""
    rows: Any
    """A list of dicts, or a `datasets.Dataset`."""


def hand_rows(data: Any, argument: str = "data") -> HandedRows:
    """Rows with a name for them.

    Args:
        data: dicts, one a row, all in memory (a list, a generator); or a `datasets.Dataset`.
        argument: of the caller, for messages.

    Raises:
        DataError: it is something else, empty, or a row holds what has no fingerprint.
    """
    rows = data if _is_dataset(data) else _listed(data, argument)
    digest = hashlib.sha256()
    count = 0
    for count, row in enumerate(_columns(rows), start=1):
        digest.update(_fingerprint(row, f"{argument} row {count}"))
    if not count:
        raise DataError(f"{argument} is empty: it holds no rows")
    return HandedRows(f"<{count} rows {digest.hexdigest()[:_DIGITS]}>", rows)


def read_handed(source: Source) -> Iterator[RawRow]:
    """The rows of a name."""
    for number, row in enumerate(_columns(rows_of(source)), start=1):
        yield RawRow(f"{source.name} row {number}", row)


def rows_of(source: Source) -> Any:
    """What a caller gave under a name.

    Raises:
        DataError: nobody did.
    """
    try:
        return handed("data.path", source.name, "data=rows (and eval_data=)")
    except ValueError as error:
        raise DataError(str(error)) from None


def _columns(rows: Any) -> Iterable[dict[str, Any]]:
    """Rows as dicts."""
    if not _is_dataset(rows):
        return rows
    plain = undecoded(rows.with_format(None).to_iterable_dataset())
    return (without_filling(row) for row in plain)


def _is_dataset(data: Any) -> bool:
    """Whether it is a `datasets.Dataset`; who has one has imported it."""
    library = sys.modules.get("datasets")
    return library is not None and isinstance(data, library.Dataset)


def _listed(data: Any, argument: str) -> list[dict[str, Any]]:
    if isinstance(data, str | bytes) or hasattr(data, "__fspath__"):
        raise DataError(
            f"{argument}={str(data)!r} is text: {argument} takes rows, the place of a file is "
            f"{'data.path' if argument == 'data' else 'data.eval_path'} of the configuration"
        )
    kind = type(data).__name__
    if isinstance(data, Mapping):
        splits = ", ".join(map(str, list(data)[:3]))
        raise DataError(
            f"{argument} is a {kind} of {splits}: give one split, or rows as a list of dicts "
            "({'prompt': [..]} is datasets.Dataset.from_dict(..))"
        )
    if kind == "IterableDataset":
        raise DataError(
            f"{argument} is a stream, which has no end that is known: give as many rows as are to "
            f"be used, {argument}=list(stream.take(10_000))"
        )
    if hasattr(data, "to_dict"):  # a table of pandas
        raise DataError(f"{argument} is a {kind}: give its rows, {argument}=x.to_dict('records')")
    if not isinstance(data, Iterable):
        raise DataError(f"{argument} is a {kind}: give a list of dicts, or a datasets.Dataset")
    rows = []
    for number, row in enumerate(data, start=1):
        if not isinstance(row, Mapping):
            raise DataError(
                f"{argument} row {number} is a {type(row).__name__}, not a dict of columns such as "
                "{'prompt': '2+2=', 'answer': '4'}"
            )
        rows.append(_plain(dict(row)))
    return rows


def _plain(value: Any) -> Any:
    """A copy, which later changes of the caller's rows do not reach; NumPy's values as Python's."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def _fingerprint(row: dict[str, Any], where: str) -> bytes:
    def text(value: Any) -> Any:
        if isinstance(value, bytes):
            return {"bytes": value.hex()}
        if isinstance(value, _TEXT):
            return {type(value).__name__: str(value)}
        raise DataError(
            f"{where}: a {type(value).__name__} ({' '.join(repr(value).split())[:60]}) is nothing "
            "that a row can hold: text, numbers, true and false, None, lists and dicts of these"
        )

    return json.dumps(row, sort_keys=True, default=text).encode("utf-8", "surrogatepass") + b"\n"
