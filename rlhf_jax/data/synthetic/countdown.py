"""Countdown: reach a target from numbers, each used once: "3 5 2 -> 16:" wants "(3+5)*2".

Many answers are right, so the reward is `countdown` (`rlhf_jax.rewards.countdown`), which works the
expression out; the column `answer` holds one solution. A mistake has one wrong operator, or a
number that was not given where only that can go wrong.
"""

import dataclasses
import operator
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, TypeAlias

from rlhf_jax.data.errors import DataError
from rlhf_jax.data.synthetic.problem import MAX_TRIES, Problem, check_operators, check_options
from rlhf_jax.fields import documented

Expression: TypeAlias = int | tuple[str, Any, Any]
"""A number, or (operator, left, right)."""
_WORK_OUT: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_RANK = {"+": 1, "-": 1, "*": 2, "/": 2}


@documented
@dataclasses.dataclass(frozen=True, kw_only=True)
class CountdownTask:
    """Reach a target from numbers. Intermediate results of `answer` are positive whole numbers."""

    size: int = 4000
    """Rows."""
    numbers: int = 3
    """Numbers given, all of which have to be used."""
    max_number: int = 10
    """Numbers are drawn from 1 to this, both included."""
    max_target: int = 50
    """Targets are from 1 to this, both included."""
    ops: str = "+-*/"
    """Operators that solutions are made of: some of +-*/."""
    ordered: bool = False
    """Numbers stand in ascending order: problems that differ by their order alone are one prompt,
    and none of them is held out while another is trained on."""
    noise: float = 0.5
    """Share of supervised answers that are wrong."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_options("countdown", size=self.size, noise=self.noise)
        check_operators("countdown", self.ops, "+-*/")
        for name, least in (("numbers", 2), ("max_number", 1), ("max_target", 1)):
            if self.__dict__[name] < least:
                raise DataError(
                    f"synthetic:countdown needs {name} of at least {least}, got "
                    f"{self.__dict__[name]}"
                )

    def problem(self, draw: random.Random) -> Problem:
        """The next problem."""
        for _ in range(MAX_TRIES):
            numbers = [draw.randint(1, self.max_number) for _ in range(self.numbers)]
            if self.ordered:
                numbers.sort()
            solution = _combine(numbers, self.ops, draw)
            target = None if solution is None else _value(solution)
            if solution is not None and target is not None and target <= self.max_target:
                prompt = f"{' '.join(map(str, numbers))} -> {target}:"
                mistake = draw.choice(_mistakes(solution, target, self.ops))
                return Problem(
                    prompt,
                    _text(solution),
                    _text(mistake),
                    {"nums": numbers, "target": int(target)},
                )
        raise DataError(
            f"synthetic:countdown finds hardly any problem with numbers={self.numbers}, "
            f"ops={self.ops} and max_target={self.max_target}: raise max_target"
        )


def _combine(numbers: list[int], ops: str, draw: random.Random) -> Expression | None:
    """Joins two of the numbers at a time at random; None: a result is no positive whole number."""
    pool: list[Expression] = list(numbers)
    while len(pool) > 1:
        left, right = (pool.pop(draw.randrange(len(pool))) for _ in range(2))
        joined = (draw.choice(ops), left, right)
        value = _value(joined)
        if value is None or value <= 0 or value.denominator != 1:
            return None
        pool.append(joined)
    return pool[0]


def _value(expression: Expression) -> Fraction | None:
    """Exact value; None when it divides by zero."""
    if isinstance(expression, int):
        return Fraction(expression)
    op, left, right = expression
    one = _value(left)
    other = _value(right)
    if one is None or other is None or (op == "/" and other == 0):
        return None
    return _WORK_OUT[op](one, other)


def _mistakes(solution: Any, target: Fraction, ops: str) -> list[Expression]:
    """Expressions with one operator, or else one number, changed that miss the target."""
    wrong = [
        changed
        for changed in _other_operator(solution, ops)
        if _value(changed) not in (None, target)
    ]
    return wrong or list(_other_number(solution))


def _other_operator(expression: Expression, ops: str) -> Iterator[Expression]:
    if isinstance(expression, int):
        return
    op, left, right = expression
    yield from ((other, left, right) for other in ops if other != op)
    yield from ((op, changed, right) for changed in _other_operator(left, ops))
    yield from ((op, left, changed) for changed in _other_operator(right, ops))


def _other_number(expression: Expression) -> Iterator[Expression]:
    if isinstance(expression, int):
        yield expression + 1
        return
    op, left, right = expression
    yield from ((op, changed, right) for changed in _other_number(left))
    yield from ((op, left, changed) for changed in _other_number(right))


def _text(expression: Expression) -> str:
    """The expression with the fewest parentheses."""
    if isinstance(expression, int):
        return str(expression)
    op, left, right = expression
    one = _text(left)
    other = _text(right)
    if not isinstance(left, int) and _RANK[left[0]] < _RANK[op]:
        one = f"({one})"
    if not isinstance(right, int) and (
        _RANK[right[0]] < _RANK[op] or (_RANK[right[0]] == _RANK[op] and op in "-/")
    ):
        other = f"({other})"
    return f"{one}{op}{other}"
