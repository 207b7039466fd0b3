"""Answers with a notation of their own: ratios (3:2), times (2:05 p.m.), bases (101_2)."""

import re
from fractions import Fraction

_RATIO = re.compile(r"([0-9]{1,9})\s?:\s?([0-9]{1,9})(?:\s?:\s?([0-9]{1,9}))?")
_BASED = re.compile(
    r"([0-9A-Fa-f]{1,60})\s?_\s?(?:\{\s?(?:\\text\{)?\s?\(?([0-9]{1,2}|[a-z]+)\)?\s?\}?\s?\}"
    r"|([0-9]))"
)
_BASES = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
}
_BASES |= {"hex": 16, "dec": 10, "oct": 8, "bin": 2}
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})\s?(?:\\text\{)?\s?([AaPp])\.?\s?[Mm]\.?\s?\}?")


def clock(text: str) -> tuple[str, str, str, str] | None:
    """A time of the day with its half: "2:05 p.m." -> ("time", "2", "05", "p")."""
    found = _CLOCK.fullmatch(text)
    return None if found is None else ("time", found[1].lstrip("0"), found[2], found[3].lower())


def same_time(answer: tuple[str | Fraction, ...] | None, target: tuple[str, ...]) -> bool:
    """Whether a time is the right one; without a half of the day it is compared as written."""
    return answer is not None and answer == target[: len(answer)]


def ratio(text: str) -> tuple[str | Fraction, ...] | None:
    """3:2 and 6:4 are one ratio; 12:30 is a time, equal to itself only."""
    found = _RATIO.fullmatch(text)
    if found is None:
        return None
    if len(found[2]) == 2 and len(found[1]) <= 2 and not found[3]:
        return "time", found[1].lstrip("0"), found[2]
    numbers = [int(part) for part in found.groups() if part]
    return (
        tuple(Fraction(number, numbers[-1]) for number in numbers)
        if numbers[-1]
        else ("ratio", found[0])
    )


def based(text: str) -> tuple[int] | None:
    """The value of a number with a base, as a tuple of one: 101_2 -> (5,)."""
    found = _BASED.fullmatch(text)
    if found is None:
        return None
    name = found[2] or found[3]
    base = _BASES.get(name) or (int(name) if name.isdigit() else 0)
    try:
        return (int(found[1], base),) if 2 <= base <= 36 else None
    except ValueError:  # a digit that the base does not have
        return None
