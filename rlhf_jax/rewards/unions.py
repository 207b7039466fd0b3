r"""Unions of intervals, however they are written: with ``\cup``, with "or", as inequalities."""

import re

_JOINT = re.compile(
    r"\\(?:cup|lor|vee)(?![A-Za-z])|(?<![A-Za-z])or(?![A-Za-z])|;|,(?=[^()\[\]]*(?:[(\[]|\Z))"
)
_INTERVAL = re.compile(
    r"([(\[])([^()\[\],;]+|[^,;]*\([^(),;]*\)[^,;]*),([^()\[\],;]+|[^,;]*\([^(),;]*\)[^,;]*)([)\]])"
)
_MEMBER = re.compile(r"\\?[A-Za-z]+\s*\\in(?![A-Za-z])\s*(.*)", re.DOTALL)
_SIGN = re.compile(r"\\(?:leq?|geq?|leqslant|geqslant|lt|gt)(?![A-Za-z])\s*|<=|>=|[<>]")
_NAME = re.compile(r"\\?[A-Za-z]+(?:_\{?\w\}?)?")
_MOST = 8
_WHOLE = r"(-\infty,\infty)"


def as_union(text: str) -> str | None:
    r"""A text as a union of intervals ``(a,b)\cup[c,d)``; None: under two parts, or no intervals.

    Args:
      text: cleaned ("x<1 or x>3", ``x \in (-\infty,1)\cup(3,\infty)``).
    """
    if not _is_said(text):
        return None
    intervals: list[str] = []
    names: set[str] = set()
    parts = [part.strip() for part in _JOINT.split(text) if part.strip()]
    if not 2 <= len(parts) <= _MOST:
        return None
    for part in parts:
        interval = _interval(part, names)
        if interval is None:
            return None
        intervals.append(interval)
    return r"\cup".join(intervals) if len(names) <= 1 else None


def as_interval(text: str) -> str | None:
    r"""Two bounds of one letter ("x > 0 and x < 1"), or infinite ones, as one interval; else None.

    Args:
      text: cleaned.
    """
    names: set[str] = set()
    parts = [
        part.strip()
        for part in re.split(r"(?<![A-Za-z])and(?![A-Za-z])|\\(?:land|wedge)(?![A-Za-z])|,", text)
    ]
    if not all(_SIGN.search(part) for part in parts):
        return None
    intervals = [_interval(part, names) for part in parts]
    if len(names) != 1 or None in intervals:
        return None
    found = [re.sub(r"\s|\+(?=\\infty)", "", str(interval)) for interval in intervals]
    if len(found) == 1:
        return _WHOLE if found[0] == _WHOLE else None
    below = [interval for interval in found if interval.startswith(r"(-\infty,")]
    above = [interval for interval in found if interval.endswith(r",\infty)")]
    if len(found) != 2 or len(below) != 1 or len(above) != 1 or below == above:
        return None
    return above[0].removesuffix(r"\infty)") + below[0].removeprefix(r"(-\infty,")


def _is_said(text: str) -> bool:
    """Whether a text says "union" or states inequalities; "(1, 2), (3, 4)" are points."""
    return (
        r"\cup" in text
        or re.search(r"(?<![A-Za-z])or(?![A-Za-z])|\\(?:lor|vee)(?![A-Za-z])", text) is not None
    )


def _interval(part: str, names: set[str]) -> str | None:
    if member := _MEMBER.fullmatch(part):
        names.add(part.split("\\in")[0].strip())
        part = member[1].strip()
    if found := _INTERVAL.fullmatch(part):
        return f"{found[1]}{found[2].strip()},{found[3].strip()}{found[4]}"
    signs = [sign[0].strip() for sign in _SIGN.finditer(part)]
    sides = [side.strip() for side in _SIGN.split(part)]
    if not 1 <= len(signs) <= 2 or not all(sides):
        return None
    up = ["l" in sign or "<" in sign for sign in signs]
    closed = ["e" in sign or "=" in sign for sign in signs]
    if len(signs) == 2:
        if up[0] != up[1] or not _NAME.fullmatch(sides[1]):
            return None
        names.add(sides[1])
        low, high = (0, 2) if up[0] else (2, 0)
        first, last = (closed[0], closed[1]) if up[0] else (closed[1], closed[0])
        return f"{'[' if first else '('}{sides[low]},{sides[high]}{']' if last else ')'}"
    named = [
        _NAME.fullmatch(side) is not None and side not in (r"\pi", r"\infty") for side in sides
    ]
    if named[0] == named[1]:
        return None
    names.add(sides[named.index(True)])
    bound = sides[named.index(False)]
    if up[0] == named[0]:  # x < 3, 3 > x
        return rf"(-\infty,{bound}{']' if closed[0] else ')'}"
    return rf"{'[' if closed[0] else '('}{bound},\infty)"
