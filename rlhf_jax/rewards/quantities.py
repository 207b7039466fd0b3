"""Answers that are one number: the fast path of all graders.

A strict grammar: sign, currency, digits with separators, decimals, a simple or mixed fraction, a
scale word, a percent sign, a unit, at most four nouns. A text that it does not understand to the
last character is no quantity, and nothing is erased.
"""

import functools
import re
from fractions import Fraction
from typing import NamedTuple

from rlhf_jax.rewards.nouns import are_nouns
from rlhf_jax.rewards.numerals import in_digits
from rlhf_jax.rewards.typography import DEGREE, LONGEST, clean
from rlhf_jax.rewards.units import UNITS, Unit, unit_of
from rlhf_jax.rewards.wording import scale_of

_LONGEST_NUMBER = 400
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
NUMBER = rf"(?:{_DIGITS}(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]{{1,3}}(?![\w.]))?"
"""A number without sign, as a regular expression."""

_CURRENCY = r"(?:(?:US)?\\?\$|€|£|¥|₹|Rs\.?\s|(?:USD|EUR|GBP)\s)"
_FRACTION = (
    r"\\frac\s{0,3}(?:\{\s{0,3}([-+]?[0-9]+)\s{0,3}\}\s{0,3}\{\s{0,3}([0-9]+)\s{0,3}\}"
    r"|([0-9])\s{0,3}([0-9]))"
)
_QUANTITY = re.compile(
    rf"(?:(?P<before>{_CURRENCY})\s{{0,3}})?(?P<sign>[-+]?)\s{{0,3}}"
    rf"(?:(?P<currency>{_CURRENCY})\s{{0,3}})?"
    rf"(?:(?P<fraction>(?P<whole>[0-9]*)\s{{0,3}}{_FRACTION})|(?P<number>{NUMBER})\.?"
    rf"(?:\s{{0,3}}/\s{{0,3}}(?P<under>[0-9]+)"
    rf"|\s{{1,3}}(?P<above>[0-9]+)\s{{0,3}}/\s{{0,3}}(?P<below>[0-9]+)"
    rf"|\\overline\s{{0,3}}\{{(?P<period>[0-9]{{1,30}})\}})?)(?P<rest>.*)",
    re.DOTALL,
)
_TEXT = re.compile(r"\\text\{((?:[^{}\\]|\\[$%&#])*)\}")
_PERCENT = re.compile(r"\s{0,3}(?:%|(?:percent|per\s?cent|percentage|pct)(?![A-Za-z])\.?)")
_NAME = r"(?:[A-Za-z]|\\[A-Za-z]+)(?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9]+\}))?"
ASSIGNED = re.compile(
    rf"(?:{_NAME}(?:\([A-Za-z0-9, +-]{{1,12}}\))?|[A-Za-z]\w{{1,11}}"
    rf"|\|?[A-Z]{{2,4}}\|?|\\angle\s?[A-Z]{{1,3}})\s{{0,3}}(?:=|\\approx)\s{{0,3}}([^=]+)"
)
"""A name and what it is said to be."""
_NAMED = re.compile(
    r"(?P<name>(?:\\angle\s?)?[A-Z]{2,4}|\\angle\s[A-Z]|\\[A-Za-z]+|[A-Za-z])"
    r"(?:\(\s?(?P<of>-?[0-9]+|[A-Z])\s?\))?\s?="
)
_GIVEN = re.compile(r"(?<![A-Za-z\\])[A-Za-z]\s?=")


class Quantity(NamedTuple):
    """A number that a text states, with all that it says about it."""

    value: Fraction
    """As written: of "50%" it is 50."""
    percent: bool
    places: int | None
    """Digits behind the point; None: not a decimal."""
    unit: Unit | None


@functools.lru_cache(maxsize=8192)
def quantity_of(answer: str) -> Quantity | None:
    """The quantity that an answer is, or None when it is anything else."""
    text = clean(answer)
    if len(text) > LONGEST:
        return None
    if assigned := ASSIGNED.fullmatch(text):
        text = assigned[1]
    found = _QUANTITY.fullmatch(in_digits(_TEXT.sub(r" \1 ", text).strip()))
    if found is None or len(found["number"] or found["fraction"]) > _LONGEST_NUMBER:
        return None
    value = _value(found)
    tail = None if value is None else _tail(found["rest"], single=value <= 1)
    if value is None or tail is None:
        return None
    scale, percent, unit = tail
    symbol = (
        (found["before"] or found["currency"] or "")
        .replace("\\", "")
        .replace("US$", "$")
        .rstrip(". ")
    )
    if symbol:
        if percent or (unit is not None and unit.measures != UNITS[symbol].measures):
            return None
        unit = unit or UNITS[symbol]
    signed = -value if found["sign"] == "-" else value
    return Quantity(signed * scale, percent, _places(found), unit)


def names_differ(answer: str, target: str) -> bool:
    """Whether two answers name two things: "y = 5" is no answer to "x = 5", f(3) none to f(2).

    Nor is BC one to AB. Of several names each (a list) nothing is said.
    """
    answer = clean(answer)
    target = clean(target)
    if len(_GIVEN.findall(answer)) > 1 and len(_GIVEN.findall(target)) > 1:
        return False
    ours = _NAMED.match(answer)
    wanted = _NAMED.match(target)
    if ours is None or wanted is None:
        return False
    if re.search("[A-Z]{2}", ours["name"]) and re.search("[A-Z]{2}", wanted["name"]):
        return sorted(ours["name"]) != sorted(wanted["name"])  # AB and BA are one segment
    if re.search("[A-Z]{2}", ours["name"] + " " + wanted["name"]):
        return False  # "x" may be the letter for AB
    return (ours["name"], ours["of"]) != (wanted["name"], wanted["of"])


def as_number(answer: str) -> Fraction | None:
    """The value of an answer that is one number, perhaps with a unit or percent; else None."""
    quantity = quantity_of(answer)
    return None if quantity is None else quantity.value


def same_quantity(answer: Quantity, target: Quantity) -> bool:
    """Whether two quantities are equal.

    Units are compared where both have one that is known (5 km = 5000 m, 5 km != 5 m). "50%" equals
    50 and 0.5, but "0.5%" is not 0.5. A decimal of six places or more equals what it is the rounded
    form of (0.333333 and 1/3).
    """
    ratio = Fraction(1)
    if answer.unit is not None and target.unit is not None:
        if answer.unit.measures != target.unit.measures:
            return False
        ratio = answer.unit.factor / target.unit.factor
    for value in _readings(answer, target):
        for wanted in _readings(target, answer):
            if value * ratio == wanted or (ratio == 1 and _rounded(answer, target, value, wanted)):
                return True
    return False


def _readings(one: Quantity, other: Quantity) -> list[Fraction]:
    """What a percentage may stand for beside a number that is none."""
    if not one.percent or other.percent:
        return [one.value]
    return [one.value / 100] if 0 < abs(one.value) < 1 else [one.value, one.value / 100]


def _rounded(answer: Quantity, target: Quantity, value: Fraction, wanted: Fraction) -> bool:
    """Whether one is a long decimal and the other, with more digits, agrees with all of it."""
    for short, long in ((answer, target), (target, answer)):
        if short.places is None or short.places < 6:
            continue
        step = Fraction(1, 10**short.places)
        if (long.value / step).denominator == 1:
            continue  # exact at these places: either equal or another number
        if abs(value - wanted) <= step and abs(value - wanted) * 10**5 <= abs(wanted):
            return True
    return False


def _value(found: re.Match[str]) -> Fraction | None:
    if found["fraction"]:
        above, below = (found[k] or found[k + 2] for k in (6, 7))
        if not int(below):
            return None
        part = Fraction(int(above), int(below))
        if not found["whole"]:
            return part
        return int(found["whole"]) + part if part >= 0 else None
    number = Fraction(found["number"].replace(",", ""))
    if found["under"]:
        return number / int(found["under"]) if int(found["under"]) else None
    if found["above"]:
        whole = number.denominator == 1 and "." not in found["number"]
        return (
            number + Fraction(int(found["above"]), int(found["below"]))
            if whole and int(found["below"])
            else None
        )
    if found["period"]:
        if "." not in found["number"] + found[0][found.end("number") : found.end("number") + 1]:
            return None
        behind = len(found["number"].partition(".")[2])
        period = found["period"]
        return number + Fraction(int(period), (10 ** len(period) - 1) * 10**behind)
    return number


def _places(found: re.Match[str]) -> int | None:
    if found["fraction"] or found["under"] or found["above"] or found["period"]:
        return None
    mantissa, _, exponent = found["number"].lower().partition("e")
    places = len(mantissa.partition(".")[2]) - int(exponent or 0)
    return max(places, 0) if "." in mantissa or exponent else None


def _tail(rest: str, *, single: bool) -> tuple[Fraction, bool, Unit | None] | None:
    """(scale, percent, unit) of what follows a number; None when it is not understood."""
    scale = Fraction(1)
    percent = False
    unit = None
    glued = bool(rest) and not rest[0].isspace()
    words = rest.strip()
    if sign := _PERCENT.match(words):
        return (scale, True, None) if _only_nouns(words[sign.end() :], measured=True) else None
    if words in ("\\$", "$", "€", "£"):
        return scale, percent, UNITS[words[-1]]
    while (
        (first := re.match(r"[A-Za-z]+(?=\s|$)", words))
        and not glued
        and (factor := scale_of(first[0])) is not None
    ):
        scale *= factor
        words = words[first.end() :].strip()
    if not words:
        return scale, percent, unit
    if known := unit_of(words):
        unit, words = known
        # "5m" and "5m^2" may be products of a variable; "5km" and "5 m" are not, and degrees are a
        # sign of their own
        name = re.match(rf"[A-Za-z]+|.{DEGREE}?", rest.strip())
        if glued and name and len(name[0]) == 1 and name[0].isalpha():
            return None
        return (scale, percent, unit) if _only_nouns(words, measured=True) else None
    return (scale, percent, unit) if not glued and _only_nouns(words, single=single) else None


def _only_nouns(text: str, *, single: bool = False, measured: bool = False) -> bool:
    text = text.strip()
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    return are_nouns(re.split(r"[\s-]+", text), single=single, measured=measured) if text else True
