"""Whether two parsed expressions are equal, by their values. Imports sympy: slow to load.

Numbers and formulas are worked out to 30 digits at several points instead of being simplified: the
time is bounded by their size, and small differences ("10^{-20}" and "10^{-21}") are not rounded
away. Sets, intervals and inequalities go to math-verify's `verify`.
"""

import sympy
from math_verify import verify
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

_OPAQUE = (AppliedUndef, sympy.Sum, sympy.Product, sympy.Integral, sympy.Derivative, sympy.Limit)
"""What has no value at a point."""
INEQUALITIES = (sympy.StrictLessThan, sympy.LessThan, sympy.StrictGreaterThan, sympy.GreaterThan)
DIGITS = 30
"""To which a value is worked out."""
_NOTHING = sympy.Float("1e-100")
"""Below it a number that is not rational is 0: what sympy gives when no digit is certain."""
_POINTS = 4
_SOLVED_DEGREE = 2
"""Degree of an inequality that is solved, to compare it with an interval."""


def equal(found: sympy.Basic | sympy.MatrixBase, wanted: sympy.Basic | sympy.MatrixBase) -> bool:
    """Whether two expressions, sets, matrices or statements are equal."""
    found = _unwrapped(found)
    wanted = _unwrapped(wanted)
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
        return type(found) is type(wanted) and all(map(equal, found.args, wanted.args))
    one = found.args[0] - found.args[1]
    other = wanted.args[0] - wanted.args[1]
    letters = sorted(one.free_symbols | other.free_symbols, key=str)
    if (
        one.free_symbols != other.free_symbols
        or not letters
        or one.has(*_OPAQUE)
        or other.has(*_OPAQUE)
    ):
        return type(found) is type(wanted) and all(map(equal, found.args, wanted.args))
    ratio = None
    for point in range(_POINTS):
        values = {letter: _coordinate(point, place) for place, letter in enumerate(letters)}
        above = _number(one.subs(values))
        below = _number(other.subs(values))
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
    return all(map(equal, one.flat(), other.flat()))


def _same_elements(found: tuple[sympy.Basic, ...], wanted: tuple[sympy.Basic, ...]) -> bool:
    return all(any(equal(one, other) for other in wanted) for one in found) and all(
        any(equal(other, one) for other in found) for one in wanted
    )


def _same_value(found: sympy.Expr, wanted: sympy.Expr) -> bool | None:
    """Whether two expressions are equal for all values of their letters; None: cannot tell."""
    if found == wanted:
        return True
    if found.has(*_OPAQUE) or wanted.has(*_OPAQUE):
        found = found.doit()
        wanted = wanted.doit()
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
        value = value.evalf(DIGITS)
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
    distance = abs(one - other)
    size = abs(other)
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
