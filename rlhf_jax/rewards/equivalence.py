r"""Whether two final answers mean the same.

In this order, the first that decides: equal texts; choice letters and words; numbers (`quantities`,
exact); ratios and numbers with a base; lists, sets, tuples and intervals by their members;
expressions, which math-verify parses and which are compared by their values at several points. What
is refused on the way (`cost`, marks that the parser drops) is not equal.
"""

import functools
import re
from collections.abc import Callable

from rlhf_jax.rewards.choices import same_choice
from rlhf_jax.rewards.cost import too_costly
from rlhf_jax.rewards.members import is_balanced, read_members, right_side
from rlhf_jax.rewards.notations import based, clock, ratio, same_time
from rlhf_jax.rewards.nouns import are_nouns
from rlhf_jax.rewards.quantities import names_differ, quantity_of, same_quantity
from rlhf_jax.rewards.typography import clean, words_of
from rlhf_jax.rewards.unions import as_interval, as_union
from rlhf_jax.rewards.units import Unit
from rlhf_jax.rewards.wording import VALUE

_BUILT = re.compile(
    r"\\\{\s?[A-Za-z]\s?(?:\\in\s?\\(?:mathbb\s?\{?\s?R\s?\}?|R)\s?)?"
    r"(?:\\mid|\\vert|:|\|)\s?(.+?[<>=\\].*?)\\\}",
    re.DOTALL,
)
"""A set that is described by what holds for its members."""
_TUPLE_NAMES = re.compile(r"\(\s?([A-Za-z](?:\s?,\s?[A-Za-z])+)\s?\)\s?=")
_BOUND = re.compile(r"[<>]|\\(?:le|ge|lt|gt|ne|in|notin)(?:q|qq|qslant)?(?![A-Za-z])")
_DIVISOR = re.compile(r"(?:gcd|lcm)\}?\s?[({][^()]*(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")
"""A divisor of letters, which sympy takes for prime to each other."""
_ENUMERATED = re.compile(r"\s?(?:[,;]|&)\s?(?:and\s)?|\sand\s")
_MOST_MEMBERS = 24
_PLAIN_UNITS = re.compile(
    r"(?<=[0-9a-z})])\s*(?:\\(?:text|mathrm|mbox|textrm)\{\s*)?(?<![A-Za-z])"
    r"(?:(?:square|sq\.?|cubic|cu\.?)\s+units?"
    r"|units?\s*(?:squared|cubed|\}?\s*\^\s*\{?[23]\}?)?)\s*\.?\s*\}?\s*\Z"
)
_WITH_UNIT = re.compile(
    r"(.*[^\s(,;])\s?\\(?:text|mathrm|mbox)\{\s?([A-Za-z .-]*?)\s?\}\s?(\^\s?\{?[0-9]\}?)?",
    re.DOTALL,
)
_VALUE_END = re.compile(r"(?:[0-9})]|\\pi)$")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s?\{[^{}]*\}")
_NAME = re.compile(r"[A-Za-z](?![A-Za-z])|(?<=\\)[A-Za-z]+|[A-Za-z]")


def equivalent(answer: str, target: str) -> bool:
    """Whether two final answers, each a number, an expression in latex or a text, mean the same.

    Args:
      answer: what was answered. Not symmetric: letters of choice may be followed by what was
      chosen, and an equation answers
        with its right side.
      target: the right answer.
    """
    return _equivalent(_without_plain_units(_described(clean(answer))), _target(target))


def is_readable(target: str) -> bool:
    """Whether a right answer can be compared beyond its text: a number, a text, or parsed."""
    target = _target(target)
    if quantity_of(target) is not None or is_wording(target):
        return True
    members = read_members(target)
    if members is not None and len(members.parts) > 1:
        return all(is_readable(part) for part in members.parts)
    from rlhf_jax.rewards import algebra  # heavy: sympy

    value = right_side(target)
    return bool(clock(value) or ratio(value) or based(value)) or algebra.equals_itself(
        _expression(target)[0]
    )


def is_wording(text: str) -> bool:
    r"""Whether an answer is words (and numbers), no mathematics: compared by letter, any case."""
    bare = _TEXT.sub(r"\1", text).strip()
    if re.fullmatch(r"[A-Za-z]", bare):
        return bare in "ABCDEFGHIJ"
    if re.search(r"[\\^_=<>{}*+]", bare):
        return False
    words = words_of(bare)
    prose = [word for word in words if len(word) > 2 or word.lower() in VALUE]
    return (
        bool(words)
        and (len(words) == len(bare.split()) or bool(prose))
        and not re.search(r"[0-9]", bare)
    )


def _equivalent(answer: str, target: str) -> bool:
    if _bare(answer) == _bare(target):
        return bool(answer)
    if not answer or not target:
        return False
    if (chosen := same_choice(answer, target)) is not None:
        return chosen
    if names_differ(answer, target):
        return False
    wanted = quantity_of(target)
    if wanted is not None and (value := quantity_of(answer)) is not None:
        return same_quantity(value, wanted)
    if wanted is None and (is_wording(answer) or is_wording(target)):
        if len(_bare(target)) == 1 == len(_bare(answer)):
            return False  # letters of choice were told before: "a" and "A" are two symbols
        return _letters(answer) == _letters(target)
    ours = right_side(answer)
    theirs = right_side(target)
    if (time := clock(theirs)) is not None:
        return same_time(clock(ours) or ratio(ours), time)
    for kind in (ratio, based):
        if kind(ours) or kind(theirs):
            return kind(ours) == kind(theirs)
    return _same_members(answer, target) or _same_union(answer, target)


def _same_union(answer: str, target: str) -> bool:
    """Whether both are the same union of intervals, one of them said to be a union."""
    if r"\cup" not in answer + target and not re.search(r"[<>]|\\[lg]e", answer + target):
        return False  # "(1, 2) or (3, 4)": two points
    ours = as_union(answer)
    wanted = as_union(target)
    return ours is not None and wanted is not None and _same_expression(ours, wanted)


def _target(text: str) -> str:
    return _without_plain_units(_without_remark(_described(clean(text))))


def _described(text: str) -> str:
    r"""What members of a set fulfil: ``\{x \mid x > 1\}`` -> "x > 1"; bounds make an interval."""
    built = _BUILT.fullmatch(text)
    if built is not None and is_balanced(built[1]):
        text = built[1].strip()
    return text if re.search(r"[<>]|\\[lg]", text) is None else as_interval(text) or text


def _without_plain_units(text: str) -> str:
    """An answer without "units", "square units" or "cubic units" behind it: nothing named."""
    return _PLAIN_UNITS.sub("", text)


def _without_remark(target: str) -> str:
    """A right answer without a remark in words behind it: "9 (apples)" -> "9"."""
    remark = re.fullmatch(r"(.*[^\s(])\s*\(([A-Za-z][A-Za-z' -]*)\)", target)
    return (
        remark[1]
        if remark and len(remark[2]) > 2 and are_nouns(remark[2].split(), single=True)
        else target
    )


def _bare(text: str) -> str:
    return " ".join(_TEXT.sub(r"\1", text).split())


def _letters(text: str) -> list[str]:
    """The words of an answer, in any case; enumerated ones in any order."""
    return sorted(part.strip(" .!") for part in _ENUMERATED.split(_bare(text).casefold()))


def _same_members(answer: str, target: str) -> bool:
    if not _same_names(answer, target):
        return False
    ours = read_members(answer)
    wanted = read_members(target)
    if ours is None or wanted is None or max(len(ours.parts), len(wanted.parts)) > _MOST_MEMBERS:
        return False
    words = _joined(answer)
    others = _joined(target)
    if (
        words
        and others
        and words != others
        and re.search(r"[<>]|\\(?:[lg]e|infty)", answer + target)
    ):
        return False  # "x > 1 and x < 3" is not "x > 1 or x < 3"
    if len(_bounded(answer)) > 1 and not _bounded(target):
        return False  # "x < 1 or y > 3" is no set of numbers
    loose = {"list", "set"}
    # statements may be written as one or as several; of values each counts
    bounds = _BOUND.search(answer + target) is not None or (";" in target and "=" in target)
    if (
        ours.kind == "list"
        and wanted.kind == "one"
        and words == ["or"]
        and not _BOUND.search(answer)
    ):
        return all(_equivalent(part, target) for part in ours.parts)  # "3/4 or 0.75"
    if ours.kind == wanted.kind == "one":
        return _same_expression(answer, target)
    if (ours.kind in loose) != (wanted.kind in loose):
        # a set of one member is that member, and "x, y" stands for several statements; "(1, 2)" is
        # neither
        if "one" in (ours.kind, wanted.kind) and "list" not in (ours.kind, wanted.kind):
            return len(ours.parts) == len(wanted.parts) and _equivalent(
                ours.parts[0], wanted.parts[0]
            )
        return "one" in (ours.kind, wanted.kind) and bounds and _same_expression(answer, target)
    if ours.kind in loose:
        # roots may be multiple; of solutions that are tuples one said twice is one
        counted = wanted.kind == "list" and not all(part.startswith("(") for part in wanted.parts)
        same = _same_list if counted else _same_set
        return same(ours.parts, wanted.parts) or (
            bounds and len(ours.parts) != len(wanted.parts) and _same_expression(answer, target)
        )
    if ours.kind == wanted.kind:
        return len(ours.parts) == len(wanted.parts) and all(
            map(_equivalent, ours.parts, wanted.parts)
        )
    # one of them is a single expression: an inequality, a union of intervals, a vector
    return "one" in (ours.kind, wanted.kind) and _same_expression(answer, target)


def _bounded(text: str) -> set[str]:
    """The letters that a text bounds."""
    return set(re.findall(r"(?<![A-Za-z\\])([A-Za-z])\s?(?:[<>]|\\[lg]e)", text))


def _joined(text: str) -> list[str]:
    """The words that join the parts of a text."""
    return sorted(set(re.findall(r"(?<![A-Za-z])(?:and|or)(?![A-Za-z])", text)))


def _same_set(ours: list[str], wanted: list[str]) -> bool:
    """Whether each has its equal on the other side."""
    covers: Callable[[str], bool] = functools.partial(_covered, wanted)
    return all(map(covers, ours)) and all(
        any(_equivalent(part, want) for part in ours) for want in wanted
    )


def _same_list(ours: list[str], wanted: list[str]) -> bool:
    """Whether each has an equal of its own on the other side: "2, 2" is not "2"."""
    rest = list(ours)
    for want in wanted:
        place = next((place for place, part in enumerate(rest) if _equivalent(part, want)), None)
        if place is None:
            return False
        del rest[place]
    return not rest


def _same_names(answer: str, target: str) -> bool:
    """Whether tuples give values to the same names in the same order.

    "(y, x) = (3, -2)" is no answer to "(x, y) = (3, -2)" or to "(3, -2)".
    """
    ours, wanted = (
        [name.strip() for name in found[1].split(",")] if found else None
        for found in map(_TUPLE_NAMES.match, (answer, target))
    )
    if ours is None or wanted is None:
        return ours is None or not set(ours) <= set("xyz") or ours == sorted(ours)
    return ours == wanted


def _covered(wanted: list[str], part: str) -> bool:
    return any(_equivalent(part, want) for want in wanted)


def _same_expression(answer: str, target: str) -> bool:
    if too_costly(answer) or too_costly(target):
        return False
    ours, our_unit = _expression(answer)
    wanted, unit = _expression(target)
    if our_unit is not None and unit is not None and our_unit != unit:
        return False
    if _marks(ours) != _marks(wanted) or not _same_case(ours, wanted):
        return False
    if _DIVISOR.search(ours) or _DIVISOR.search(wanted):
        return "".join(ours.split()) == "".join(wanted.split())
    from rlhf_jax.rewards import algebra  # heavy: sympy; workers import it once, before they fork

    return algebra.same(ours, wanted)


def _expression(text: str) -> tuple[str, Unit | None]:
    """An expression without a unit in words behind it, and that unit."""
    found = _WITH_UNIT.fullmatch(text)
    if found is None or not _VALUE_END.search(found[1]):
        return text, None
    two = quantity_of(f"2 {found[2]}{found[3] or ''}")
    return (found[1].strip(), two.unit) if two is not None and two.value == 2 else (text, None)


def _marks(text: str) -> tuple[int, ...]:
    """Marks that the parser drops: primes, dots, ordinals. They must be the same on both sides."""
    ordinals = len(re.findall(r"[0-9]\s?(?:\\text\{)?\s?\^?\{?(?:st|nd|rd|th)(?![A-Za-z])", text))
    return (
        text.count("'"),
        len(re.findall(r"\\[lcd]?dots|\.\.\.", text)),
        ordinals,
        *_subscripts(text),
    )


def _subscripts(text: str) -> list[int]:
    return sorted(int(base) for base in re.findall(r"[0-9]\s?_\s?\{?([0-9]{1,4})", text))


def _same_case(answer: str, target: str) -> bool:
    """Whether letters on both sides are written alike: the parser reads N and n as one."""
    ours, wanted = (
        set(_NAME.findall(_ENVIRONMENT.sub(" ", _TEXT.sub(" ", text)))) for text in (answer, target)
    )
    return not any(
        name.swapcase() in others
        or name.capitalize() in others - {name}
        or name.lower() in others - {name}
        for names, others in ((ours, wanted), (ours, ours), (wanted, wanted))
        for name in names
    )
