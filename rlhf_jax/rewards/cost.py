"""Expressions that would keep an algebra system busy, told by their text, before it sees them.

A wrong answer must not hold a process: what is refused here is graded 0 at once. Right answers stay
far below each limit.
"""

import math
import re

from rlhf_jax.rewards.typography import LONGEST

_DEEPEST = 25
_DEEPEST_ROUND = 10
"""Round and square brackets, which the parser reads in several ways each."""
_MOST_TERMS = 100
_MOST_SETS = 8
_MOST_NAMES = 12
_MOST_BARS = 12
"""Signs of an absolute value, which make texts that are read in many ways."""
_LARGEST_POWER = 20_000
"""Digits that a power of numbers may have."""
_LARGEST_DEGREE = 400
"""Exponent of a letter."""
_LARGEST_EXPANSION = 40
"""Exponent of a sum that has letters."""
_LARGEST_TOWER = 30
"""Product of the numbers in an exponent that is itself a power."""
_LARGEST_NEST = 5000
"""Product of the exponents of a power of powers."""
_LARGEST_FACTORIAL = 3000
_LARGEST_RANGE = 1000
"""Last index of a sum or product."""

_TERM = re.compile(r"[-+*/=,;<>&]|\\\\|\\(?:frac|cdot|times|div|sqrt|pm|cup|cap|le|ge)(?![A-Za-z])")
_STACKED = re.compile(r"(?:[{(\[]\s*){6}")
_ROUNDING = re.compile(r"\\l?(?:floor|ceil)(?![A-Za-z])")
_SETS = re.compile(r"\\(?:cup|cap|setminus|times)(?![A-Za-z])")
_SERIES = re.compile(r"\\(?:sum|prod|bigcup|bigcap)(?![A-Za-z])")
_BOUNDS = re.compile(r"(\\(?:sum|prod)\s?_\s?\{[^{}]*\})\s?\^\s?(?:\{[^{}]*\}|[0-9A-Za-z])")
_ANALYSIS = re.compile(
    r"\\(?:i*int|oint|lim|limsup|liminf|zeta|partial)(?![A-Za-z])"
    r"|\\frac\s*\{\s*d\b.{0,20}\}\s*\{\s*d\s?[a-z]"
)
_CHOICE = re.compile(r"\\[dt]?binom|\\Gamma|\\choose|_\{?[0-9]*\}?[CP](?![A-Za-z])")
_INTEGER = re.compile(r"[0-9]+")
_COMMAND = re.compile(r"\\[A-Za-z]+|\\text\{[^{}]*\}")
_SUBSCRIPTED = re.compile(r"[A-Za-z](?:_(?:\{[^{}]{1,12}\}|[A-Za-z0-9]))?")
_LETTER = re.compile(r"[A-Za-z]")
_FUNCTION = re.compile(r"\\?(?:arc)?(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|sinh|cosh|tanh)")
_MATRIX = re.compile(r"\\begin")
_EXPONENT = re.compile(r"\^\s*\{?\s*([0-9]+)")
_OPEN = "{(["
_CLOSE = "})]"


def too_costly(text: str) -> bool:
    """Whether comparing an expression in latex might take long; found in linear time."""
    if (
        len(text) > LONGEST
        or len(_TERM.findall(text)) > _MOST_TERMS
        or len(_SETS.findall(text)) > _MOST_SETS
    ):
        return True
    if _depth(text, _OPEN, _CLOSE) > _DEEPEST or _depth(text, "([", ")]") > _DEEPEST_ROUND:
        return True
    if _STACKED.search(text) or (
        _ROUNDING.search(text) and _product_of_integers(text) > _LARGEST_RANGE
    ):
        return True
    if (
        _ANALYSIS.search(text)
        or len(_MATRIX.findall(text)) > 4
        or len(_FUNCTION.findall(text)) > 12
    ):
        return True
    bare = _COMMAND.sub(" ", text)
    if len(set(_SUBSCRIPTED.findall(bare))) > _MOST_NAMES or text.count("|") > _MOST_BARS:
        return True
    if _SERIES.search(text) and _largest(text) > _LARGEST_RANGE:
        return True
    return _costly_choice(text) or _costly_factorial(text) or _costly_power(text)


def _largest(text: str) -> int:
    return max(
        (int(number) if len(number) < 10 else 10**9 for number in _INTEGER.findall(text)), default=0
    )


def _depth(text: str, opening: str, closing: str) -> int:
    depth = deepest = 0
    for sign in text:
        if sign in opening:
            depth += 1
            deepest = max(deepest, depth)
        elif sign in closing:
            depth -= 1
    return deepest


def _costly_choice(text: str) -> bool:
    """Binomials and gamma functions of large numbers, of powers and of factorials."""
    for mark in _CHOICE.finditer(text):
        if _largest(text) > _LARGEST_FACTORIAL:
            return True
        first = _operand_after(text, mark.end())
        second = _operand_after(text, mark.end() + len(first))
        for operand in (first, second):
            if (
                re.search(r"[0-9!)}]\s*[\^!]", operand[:-1])
                or _product_of_integers(operand) > _LARGEST_FACTORIAL
            ):
                return True
    return False


def _costly_factorial(text: str) -> bool:
    """Factorials of large numbers, powers, factorials; double ones, read in two ways."""
    for mark in re.finditer("!", text):
        before = text[: mark.start()].rstrip()
        if before.endswith("!") or text[mark.end() :].lstrip().startswith("!"):
            return True
        operand = _operand_before(before)
        if "!" in operand or "^" in operand or _product_of_integers(operand) > _LARGEST_FACTORIAL:
            return True
    return False


def _costly_power(text: str) -> bool:
    """Towers, and powers whose value or expansion is long."""
    text = _BOUNDS.sub(r"\1 ", text)
    logarithm = 0.0  # of everything that the powers of numbers may multiply to
    for mark in re.finditer(r"\^|\\sqrt\s*\[", text):
        exponent = _operand_after(text, mark.end() - (mark[0] != "^"))
        base = _operand_before(text[: mark.start()].rstrip()) if mark[0] == "^" else ""
        size = _product_of_integers(exponent)
        if "!" in exponent or _SERIES.search(exponent) or exponent.count("^") > 1:
            return True
        if "^" in exponent and size > _LARGEST_TOWER:
            return True
        if (
            _product_of_integers(" ".join(_EXPONENT.findall(base))) * size > _LARGEST_NEST
            and "^" in base
        ):
            return True
        letters = _LETTER.search(_COMMAND.sub(" ", base))
        compound = base[:1] in _OPEN or base.endswith("}")
        if "pmatrix" in text[: mark.start()][-14:] and size > _LARGEST_EXPANSION:
            return True
        if letters and size > (_LARGEST_EXPANSION if compound else _LARGEST_DEGREE):
            return True
        if "." in exponent and size > _LARGEST_RANGE:
            return True
        if not letters:
            logarithm += size * max(
                math.log10(max(_product_of_integers(base), 2)),
                1.0 if compound and "." in base else 0.3,
            )
        if logarithm > _LARGEST_POWER or mark[0] != "^" and size > _LARGEST_DEGREE:
            return True
    return False


def _product_of_integers(text: str) -> int:
    """A bound on what the integers of a short text can make by sums and products."""
    product = 1
    for number in _INTEGER.findall(text):
        product *= max(int(number) if len(number) < 10 else 10**9, 1)
        if product > 10**12:
            return product
    return product


def _operand_before(text: str) -> str:
    """What a postfix sign stands behind: a group in brackets, a number, or one sign."""
    if not text:
        return ""
    if text[-1] in _CLOSE:
        depth = 0
        for place in range(len(text) - 1, -1, -1):
            depth += (text[place] in _CLOSE) - (text[place] in _OPEN)
            if depth == 0:
                return text[place:]
        return text
    digits = re.search(r"[0-9][0-9,.]*$", text[-_LARGEST_DEGREE:])
    return digits[0] if digits else text[-1]


def _operand_after(text: str, place: int) -> str:
    """The argument that starts at a place: a bracket, a command, or what goes on unbroken."""
    while place < len(text) and text[place].isspace():
        place += 1
    if place < len(text) and text[place] in _OPEN:
        depth = 0
        for end in range(place, len(text)):
            depth += (text[end] in _OPEN) - (text[end] in _CLOSE)
            if depth == 0:
                tail = text[end + 1 :].lstrip()
                return (
                    text[place : end + 1]
                    + ("^" if tail.startswith("^") else "")
                    + ("!" if tail.startswith("!") else "")
                )
        return text[place:]
    plain = re.match(r"[-+]?(?:[0-9.]+|\\[A-Za-z]+|.)[!^]?", text[place:], re.DOTALL)
    return plain[0] if plain else ""
