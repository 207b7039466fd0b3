"""Expressions in latex, read by math-verify and compared (`symbols`). Imports sympy: slow to load.

What is compared is the value that a chain of equations states, or the statement itself. Decimals
are read as fractions where the parser's digits would decide.
"""

import functools
import logging
import re
from collections.abc import Callable

import sympy
from latex2sympy2_extended.math_normalization import NormalizationConfig
from math_verify import LatexExtractionConfig, parse
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom

from rlhf_jax.rewards.cost import too_costly
from rlhf_jax.rewards.quantities import quantity_of
from rlhf_jax.rewards.symbols import DIGITS, INEQUALITIES, equal
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
_ROUNDED_PLACES = 6
"""Places from which on a decimal may stand for what it is rounded from."""
_DECIMAL = re.compile(r"(?<![0-9.,_])([0-9]*)\.([0-9]+)(?![0-9.])(?!\\overline)(?![eE][-+]?[0-9])")
_ROUNDED = re.compile(rf"\.[0-9]{{{_ROUNDED_PLACES},}}")
_POWER_OF_TEN = re.compile(r"(?<![0-9.])10\s?\^\s?\{?\s?-?[0-9]{1,3}(?![0-9])")
_LARGE_POWER = re.compile(r"\^\s?\{?\s?-?[0-9]{3}|\^[^+*/=,]{1,12}\^|!")
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
            and equal(found, wanted)
        ):
            return True
    if ends is not None:
        value = read(_chain(target)[0][-1]) if _is_named(target) else wanted
        results = [read(end) for end in ends]
        return value is not None and all(
            result is not None and equal(result, value) for result in results
        )
    found = read(answer)
    if found is None:
        return False
    value = (
        read(_chain(target)[0][-1])
        if _is_named(target) and isinstance(found, sympy.Expr)
        else wanted
    )
    return value is not None and equal(found, value)


def equals_itself(text: str) -> bool:
    """Whether an expression is read, and then equals itself."""
    if too_costly(text):
        return False
    return same(text, text)


def _chain(text: str) -> tuple[list[str], list[str]]:
    """(parts of a chain of equations, the signs between them), outside brackets."""
    parts = []
    signs = []
    depth = 0
    start = 0
    last = 0
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
        return exact if (number.places or 0) < _ROUNDED_PLACES else sympy.Float(exact, DIGITS)
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
    if value.has(*INEQUALITIES):
        return value  # a compared "i" is a letter
    # What the parser makes of an imaginary unit beside a decimal, or alone.
    return value.subs({letter: sympy.I for letter in value.free_symbols if str(letter) == "i"})
