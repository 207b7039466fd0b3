"""When what a program printed, or a function returned, is what the row wants."""

import math
import re
from decimal import Decimal
from typing import Any

_NUMBER = re.compile(
    r"[+-]?(?:\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})(?:[eE][+-]?\d{1,3})?", re.ASCII
)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)

_PADDED = re.compile(r"[+-]?0[0-9]")
"""Zeros in front: bits, an identifier, a telephone number; text whose digits all count."""


def same_output(got: str, wanted: str, tolerance: float) -> bool:
    """Compares token by token, white space apart.

    Args:
      got: what was printed.
      wanted: what should be.
      tolerance: two tokens are equal as texts or as numbers to this, absolutely or relatively;
        integers only when they are the same, and what has zeros in front ("000101") only as text.
        0: as texts only.
    """
    theirs = got.split()
    ours = wanted.split()
    return len(theirs) == len(ours) and all(
        _same_token(a, b, tolerance) for a, b in zip(theirs, ours, strict=True)
    )


def same_value(got: Any, wanted: Any, tolerance: float) -> bool:
    """Compares plain data: tuples as lists, keys as texts (JSON's), floats to the tolerance.

    Args:
      got: as `rlhf_jax.rewards.sandbox` writes results: ``{"int": hex}`` and ``{"dict": pairs}``
        for integers and dicts, ``{"other": type}`` for what is no plain data. Not to be trusted.
      wanted: from JSON.
      tolerance: absolute and relative; 0: floats must be the same.
    """
    try:
        return _same(got, wanted, tolerance)
    except (RecursionError, TypeError, ValueError, KeyError, OverflowError):
        return False  # what a candidate wrote in place of a result


def _same_token(got: str, wanted: str, tolerance: float) -> bool:
    if got == wanted:
        return True
    if (
        not tolerance
        or _PADDED.match(wanted)
        or not (_NUMBER.fullmatch(got) and _NUMBER.fullmatch(wanted))
    ):
        return False
    if _INTEGER.fullmatch(wanted):
        # 1000001 is not 1000000, though they differ by a millionth.
        difference = abs(Decimal(got) - Decimal(wanted))
        return difference == 0 or (not _INTEGER.fullmatch(got) and float(difference) <= tolerance)
    return math.isclose(float(got), float(wanted), rel_tol=tolerance, abs_tol=tolerance)


def _same(got: Any, wanted: Any, tolerance: float) -> bool:
    if isinstance(got, dict):
        ((kind, content),) = got.items()
        if kind == "int":
            got = int(content, 16)
        elif kind == "dict":
            return _same_dict(content, wanted, tolerance)
        else:
            return False
    if isinstance(got, int | float) and isinstance(wanted, int | float):
        if isinstance(got, float) or isinstance(wanted, float):
            return (
                got == wanted
                or math.isclose(got, wanted, rel_tol=tolerance, abs_tol=tolerance)
                or got != got
                and wanted != wanted
            )
        return got == wanted
    if isinstance(got, list):
        if not isinstance(wanted, list | tuple) or len(got) != len(wanted):
            return False
        return all(_same(a, b, tolerance) for a, b in zip(got, wanted, strict=True))
    return type(got) is type(wanted) and got == wanted


def _same_dict(pairs: Any, wanted: Any, tolerance: float) -> bool:
    if not isinstance(wanted, dict) or len(pairs) != len(wanted):
        return False
    keyed = {_key(key): value for key, value in pairs}
    expected = {_key(key): value for key, value in wanted.items()}
    return keyed.keys() == expected.keys() and all(
        _same(keyed[key], expected[key], tolerance) for key in keyed
    )


def _key(key: Any) -> str:
    """A key as JSON has it."""
    if isinstance(key, dict):
        return str(int(key["int"], 16))
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, list):
        raise TypeError("a tuple is no key in JSON")
    return str(key)
