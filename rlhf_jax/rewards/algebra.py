"""Expressions in latex, parsed by math-verify and compared by value. Imports sympy: slow to load.

Numbers and formulas are worked out to 30 digits at several points instead of being simplified: the
time is bounded by their
size, and small differences ("10^{-20}" and "10^{-21}") are not rounded away. Sets, intervals and
inequalities go to
math-verify's `verify`.
"""

import functools
import logging
import re
from collections.abc import Callable

import sympy
from latex2sympy2_extended.math_normalization import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom

from rlhf_jax.rewards.cost import too_costly
from rlhf_jax.rewards.quantities import quantity_of
from rlhf_jax.rewards.typography import DEGREE

# Units are dropped here before, by a list of ours: math-verify's would drop letters too ("2m" =
# "2").
_CONFIG = LatexExtractionConfig(
    boxed_match_priority=0,
    normalization_config=NormalizationConfig(
        basic_latex=True,
        units=False,
        malformed_operators=True,
        nits=True,
        boxed="all",
        equations=False,
    ),
)
# Its own time limit is signal.alarm, which other threads and libraries break: the pool has a hard
# one, and it warns of that.
for _name in ("math_verify.parser", "math_verify.grader"):
    logging.getLogger(_name).setLevel(logging.ERROR)

_log = logging.getLogger(__name__)

_OPAQUE = (AppliedUndef, sympy.Sum, sympy.Product, sympy.Integral, sympy.Derivative, sympy.Limit)
"""What has no value at a point."""
_INEQUALITIES = (sympy.StrictLessThan, sympy.LessThan, sympy.StrictGreaterThan, sympy.GreaterThan)
_DIGITS = 30
_ROUNDED_PLACES = 6
"""Places from which on a decimal may stand for what it is rounded from."""
_NOTHING = sympy.Float("1e-100")
"""Below it a number that is not rational is 0: what sympy gives when no digit is certain."""
_DECIMAL = re.compile(r"(?<![0-9.,_])([0-9]*)\.([0-9]+)(?![0-9.])(?!\\overline)(?![eE][-+]?[0-9])")
_ROUNDED = re.compile(rf"\.[0-9]{{{_ROUNDED_PLACES},}}")
_POWER_OF_TEN = re.compile(r"(?<![0-9.])10\s?\^\s?\{?\s?-?[0-9]{1,3}(?![0-9])")
_LARGE_POWER = re.compile(r"\^\s?\{?\s?-?[0-9]{3}|\^[^+*/=,]{1,12}\^|!")
_POINTS = 4
_SOLVED_DEGREE = 2
"""Degree of an inequality that is solved, to compare it with an interval."""
_MISREAD = re.compile(
    r"[0-9]\s+[0-9]|[0-9]*\.[0-9]+\.[0-9]|\*\*|[0-9]\s?:|@|#|&(?!.*\\end)|\\pmod|%."
    r"|[0-9]\s?_|[0-9]\s?\^\s?\{?\s?(?:T|\\top|\\intercal)(?![A-Za-z])|\\infty\s?\^|[\u3040-\u9fff]"
)
"""What the parser takes, and reads as something else."""
_LOGARITHM = re.compile(r"\\log\s?_\s?([0-9]+)\s")
_CHAIN = re.compile(r"(?<![\\<>!:])=(?!=)|\\approx(?![A-Za-z])")
_RELATION = re.compile(r"[<>]|\\(?:le|ge|lt|gt|ne|in)(?:q|qq)?(?![A-Za-z])")
_ARITHMETIC = re.compile(
    r"(?:[0-9\s.,+*/^{}()!%|-]|\\(?:frac|sqrt|cdot|times|div|pi|pm|binom|text\{\})(?![A-Za-z]))+"
)


def same(answer: str, target: str) -> bool:
    """Whether two expressions have the same value, or are equivalent statements.

    Decimals are read exactly; where one is long enough to be rounded, also as what it may be
    rounded from. What cannot be worked out ("inf/inf", the maximum of 1 and i) is the same as
    nothing.
    """
    try:
        if _same(answer, target, _read_exactly):
            return True
        return any(map(_ROUNDED.search, (answer, target))) and _same(answer, target, _parsed)
    except MemoryError:
        raise
    except Exception:
        # The one place where sympy and math-verify are asked about what a model wrote. They raise
        # errors of many types on what has no value, and such an answer is wrong, not ungradable: of
        # the right answer alone nothing is raised, or it does not equal itself and its row is left
        # out (`equals_itself`). The limit of processor time kills the process and raises nothing.
        _log.debug("cannot compare %.200r with %.200r", answer, target, exc_info=True)
        return False


def _same(
    answer: str, target: str, read: Callable[[str], sympy.Basic | sympy.MatrixBase | None]
) -> bool:
    wanted = read(target)
    if wanted is None:
        return False
    ends = _ends(answer) if not isinstance(wanted, Relational) or _is_named(target) else None
    if (
        ends is not None
        and _is_named(target)
        and not _is_named(answer)
        and not _ARITHMETIC.fullmatch(_chain(answer)[0][0])
    ):
        found = read(answer)  # "2x + y = 3" for "y = 3 - 2x"
        if (
            isinstance(found, Relational)
            and isinstance(wanted, Relational)
            and _equal(found, wanted)
        ):
            return True
    if ends is not None:
        value = read(_chain(target)[0][-1]) if _is_named(target) else wanted
        results = [read(end) for end in ends]
        return value is not None and all(
            result is not None and _equal(result, value) for result in results
        )
    found = read(answer)
    if found is None:
        return False
    value = (
        read(_chain(target)[0][-1])
        if _is_named(target) and isinstance(found, sympy.Expr)
        else wanted
    )
    return value is not None and _equal(found, value)


def equals_itself(text: str) -> bool:
    """Whether an expression is read, and then equals itself."""
    if too_costly(text):
        return False
    return same(text, text)


def _chain(text: str) -> tuple[list[str], list[str]]:
    """(parts of a chain of equations, the signs between them), outside brackets."""
    parts, signs, depth, start, last = [], [], 0, 0, 0
    for sign in _CHAIN.finditer(text):
        depth += sum((c in "{([") - (c in "})]") for c in text[last : sign.start()])
        last = sign.start()
        if depth == 0:
            parts.append(text[start : sign.start()].strip())
            signs.append(sign[0])
            start = sign.end()
    return [*parts, text[start:].strip()], signs


def _ends(text: str) -> list[str] | None:
    """Of "x = 2 + 3 = 5" the parts that state a value: the last, and plain arithmetic; else None.

    What is behind an "approximately" counts only when nothing exact is before it.
    """
    if _has_commas(text) or _RELATION.search(text):
        return None
    parts, signs = _chain(text)
    if len(parts) < 2:
        return None
    if r"\approx" in signs:
        exact = parts[: signs.index(r"\approx") + 1]
        if len(exact) > 1 or _ARITHMETIC.fullmatch(exact[0]):
            parts = exact
    if not all(parts):
        return None
    return [part for part in parts[:-1] if _ARITHMETIC.fullmatch(part)] + [parts[-1]]


def _has_commas(text: str) -> bool:
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in "{([") - (sign in "})]")
        if (
            sign in ",;"
            and depth == 0
            and not re.match(r"[,;][0-9]{3}(?![0-9])", text[place : place + 5])
        ):
            return True
    return False


def _is_named(text: str) -> bool:
    """Whether a text is "name = value" and not an equation."""
    parts, _ = _chain(text)
    if len(parts) < 2 or _has_commas(text):
        return False
    left = re.sub(r"\([^()]*\)|_\{[^{}]*\}|_.|\|", "", parts[0]).strip()
    return (
        re.fullmatch(
            r"[A-Za-z]{1,4}(?:\s?:\s?[A-Za-z]{1,4})?|\\[A-Za-z]+|\\text\{[^{}]*\}"
            r"|\\frac\{[A-Z]{2}\}\{[A-Z]{2}\}",
            left,
        )
        is not None
    )


def _read_exactly(text: str) -> sympy.Basic | sympy.MatrixBase | None:
    """An expression whose decimals are fractions: those of the parser have 15 digits."""
    if _LARGE_POWER.search(_POWER_OF_TEN.sub("", text)):
        return _parsed(text)  # a fraction to such a power is no number to work with
    if not _DECIMAL.search(text) or not (number := quantity_of(text)):
        return _parsed(_DECIMAL.sub(_as_fraction, text))
    if number.percent or number.unit is not None:
        return _parsed(text)
    return sympy.Rational(number.value.numerator, number.value.denominator)


def _as_fraction(decimal: re.Match[str]) -> str:
    places = len(decimal[2])
    return rf"{{(\frac{{{int(decimal[1] + decimal[2])}}}{{{10**places}}})}}"


@functools.lru_cache(maxsize=2048)
def _parsed(text: str) -> sympy.Basic | sympy.MatrixBase | None:
    text = _LOGARITHM.sub(r"\\log_{\1} ", text.replace(DEGREE, "")).strip()
    number = quantity_of(text)
    if number is not None and not number.percent and number.unit is None:
        exact = sympy.Rational(number.value.numerator, number.value.denominator)
        return exact if (number.places or 0) < _ROUNDED_PLACES else sympy.Float(exact, _DIGITS)
    if not text or _MISREAD.search(text):
        return None
    found = parse(
        rf"\boxed{{{text}}}",
        extraction_config=[_CONFIG],
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )
    value = found[0] if found else None
    if isinstance(value, sympy.MatrixBase):
        return value
    if not isinstance(value, sympy.Basic) or value.has(sympy.zoo, sympy.nan):
        return None
    if isinstance(value, BooleanAtom):
        return None  # "0 < 1" states no value
    if value.has(*_INEQUALITIES):
        return value  # a compared "i" is a letter
    # What the parser makes of an imaginary unit beside a decimal, or alone.
    return value.subs({letter: sympy.I for letter in value.free_symbols if str(letter) == "i"})


def _equal(found: sympy.Basic | sympy.MatrixBase, wanted: sympy.Basic | sympy.MatrixBase) -> bool:
    found, wanted = _unwrapped(found), _unwrapped(wanted)
    if isinstance(found, sympy.Expr) and isinstance(wanted, sympy.Expr):
        decided = _same_value(found, wanted)
        return bool(found == wanted) if decided is None else decided
    if isinstance(found, sympy.MatrixBase | sympy.MatrixExpr) and isinstance(
        wanted, sympy.MatrixBase | sympy.MatrixExpr
    ):
        return _same_matrix(found, wanted)
    if sympy.S.EmptySet in (found, wanted):  # math-verify takes what holds for all numbers for it
        return bool(found == wanted)
    if isinstance(found, sympy.FiniteSet) and isinstance(wanted, sympy.FiniteSet):
        return _same_elements(found.args, wanted.args)
    if isinstance(found, sympy.Expr | sympy.MatrixBase) or isinstance(
        wanted, sympy.Expr | sympy.MatrixBase
    ):
        return False
    if _statements(found) and _statements(wanted):
        return _same_statements(_statements(found), _statements(wanted))
    if any(
        not _is_simple(statement) for side in (found, wanted) for statement in _statements(side)
    ):
        return False
    return bool(verify([wanted], [found], timeout_seconds=None, allow_set_relation_comp=True))


def _unwrapped(side: sympy.Basic | sympy.MatrixBase) -> sympy.Basic | sympy.MatrixBase:
    """The set of "x in [1, 2]", the member of a set of one."""
    if isinstance(side, sympy.Eq) and isinstance(side.args[1], sympy.Set):
        side = side.args[1]
    return side.args[0] if isinstance(side, sympy.FiniteSet) and len(side.args) == 1 else side


def _statements(side: sympy.Basic | sympy.MatrixBase) -> tuple[sympy.Basic, ...]:
    """Equations and inequalities that hold together; empty for anything else."""
    if isinstance(side, Relational):
        return (side,)
    if (
        isinstance(side, sympy.And)
        and side.args
        and all(isinstance(part, Relational) for part in side.args)
    ):
        return tuple(side.args)
    return ()


def _same_statements(found: tuple[sympy.Basic, ...], wanted: tuple[sympy.Basic, ...]) -> bool:
    return all(any(_same_statement(one, other) for other in wanted) for one in found) and all(
        any(_same_statement(one, other) for one in found) for other in wanted
    )


def _same_statement(found: sympy.Basic, wanted: sympy.Basic) -> bool:
    """Whether one is the other times a constant; for an inequality the sign says which way."""
    sides = [side for relation in (found, wanted) for side in relation.args]
    if not all(isinstance(side, sympy.Expr) for side in sides):  # "x in [1, 2]"
        return type(found) is type(wanted) and all(map(_equal, found.args, wanted.args))
    one, other = found.args[0] - found.args[1], wanted.args[0] - wanted.args[1]
    letters = sorted(one.free_symbols | other.free_symbols, key=str)
    if (
        one.free_symbols != other.free_symbols
        or not letters
        or one.has(*_OPAQUE)
        or other.has(*_OPAQUE)
    ):
        return type(found) is type(wanted) and all(map(_equal, found.args, wanted.args))
    ratio = None
    for point in range(_POINTS):
        values = {letter: _coordinate(point, place) for place, letter in enumerate(letters)}
        above, below = _number(one.subs(values)), _number(other.subs(values))
        if above is None or below is None or _vanishes(above) or _vanishes(below):
            continue
        if ratio is not None and not _close(
            above / below, ratio, one.has(sympy.Float) or other.has(sympy.Float)
        ):
            return False
        ratio = above / below
    if ratio is None or not ratio.is_real:
        return False
    swapped = {sympy.Le: sympy.Ge, sympy.Ge: sympy.Le, sympy.Lt: sympy.Gt, sympy.Gt: sympy.Lt}
    return type(found) is (type(wanted) if ratio > 0 else swapped.get(type(wanted), type(wanted)))


def _is_simple(statement: sympy.Basic) -> bool:
    """Whether its solutions are found fast: low degree in one letter, or its absolute value."""
    letters = list(statement.free_symbols)
    if any(isinstance(side, sympy.Set) for side in statement.args):
        return True
    if statement.has(*_OPAQUE):
        return all(isinstance(side, AppliedUndef) or side.is_number for side in statement.args)
    if len(letters) != 1:
        return False
    poly = (
        (statement.args[0] - statement.args[1])
        .replace(sympy.Abs, lambda inside: inside)
        .as_poly(letters[0])
    )
    return poly is not None and poly.degree() <= _SOLVED_DEGREE


def _same_matrix(found: sympy.Basic, wanted: sympy.Basic) -> bool:
    one, other = (side.doit() for side in (found, wanted))
    if (
        not isinstance(one, sympy.MatrixBase)
        or not isinstance(other, sympy.MatrixBase)
        or one.shape != other.shape
    ):
        return False
    return all(map(_equal, one.flat(), other.flat()))


def _same_elements(found: tuple[sympy.Basic, ...], wanted: tuple[sympy.Basic, ...]) -> bool:
    return all(any(_equal(one, other) for other in wanted) for one in found) and all(
        any(_equal(other, one) for other in found) for one in wanted
    )


def _same_value(found: sympy.Expr, wanted: sympy.Expr) -> bool | None:
    """Whether two expressions are equal for all values of their letters; None: cannot tell."""
    if found == wanted:
        return True
    if found.has(*_OPAQUE) or wanted.has(*_OPAQUE):
        found, wanted = found.doit(), wanted.doit()
    if found.has(*_OPAQUE) or wanted.has(*_OPAQUE):
        return bool(sympy.expand(found - wanted) == 0)
    rounded = bool(found.atoms(sympy.Float) or wanted.atoms(sympy.Float))
    letters = sorted(found.free_symbols | wanted.free_symbols, key=str)
    agreed = 0
    for point in range(_POINTS if letters else 1):
        values = {letter: _coordinate(point, place) for place, letter in enumerate(letters)}
        one, other = (_number(side.subs(values) if values else side) for side in (found, wanted))
        if one is None or other is None:
            continue
        if not _close(one, other, rounded):
            return False
        agreed += 1
    return True if agreed >= (2 if letters else 1) else None


def _coordinate(point: int, place: int) -> sympy.Rational:
    """The value of a letter: at the first point all are above 1, then signs and sizes differ."""
    value = sympy.Rational(17 + 12 * place + 5 * point, 7 + 4 * place)
    return (value, -value / 3, 1 / value, value + 3 * place)[point % 4]


def _number(side: sympy.Expr) -> sympy.Expr | None:
    try:
        value = side.doit()
        if value.is_Rational:
            return value
        value = value.evalf(_DIGITS)
    except (
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        NotImplementedError,
        RecursionError,
    ):
        return None  # sympy cannot work it out at this point: no evidence either way
    if value.has(sympy.nan, sympy.zoo):
        return None  # "inf - inf" has no value
    real, imaginary = value.as_real_imag()
    return (
        value
        if real.is_number and imaginary.is_number and (real.is_Number and imaginary.is_Number)
        else None
    )


def _close(one: sympy.Expr, other: sympy.Expr, rounded: bool) -> bool:
    if one.is_infinite or other.is_infinite:
        return bool(one == other)
    if one.is_Rational and other.is_Rational and not rounded:
        return bool(one == other)
    if _vanishes(one) or _vanishes(other):
        return _vanishes(one) and _vanishes(other)
    distance, size = abs(one - other), abs(other)
    if rounded:  # decimals: to 6 places
        return bool(distance <= sympy.Float("1e-6")) and bool(
            distance <= sympy.Float("1e-5") * size
        )
    return bool(distance <= sympy.Float("1e-20") * size)


def _vanishes(value: sympy.Expr) -> bool:
    """Whether a value is 0, also one of which no digit is certain."""
    return all(
        part == 0 or (part.is_Float and abs(part) < _NOTHING) for part in value.as_real_imag()
    )
