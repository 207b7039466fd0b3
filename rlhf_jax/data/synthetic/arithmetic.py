"""Sums, differences and products in digits: "12+7=" wants "19".

By default no column carries, which makes the task one that a model of a million parameters picks up
in some hundred steps and then does right on sums it never saw. It grows harder with `digits`,
`terms`, `ops` and `carry`. A mistake is one wrong digit.
"""

import dataclasses
import math
import random
from collections.abc import Sequence

from rlhf_jax.data.errors import DataError
from rlhf_jax.data.synthetic.problem import (
    MAX_TRIES,
    Problem,
    check_operators,
    check_options,
    check_share,
)
from rlhf_jax.fields import documented

_RANGE = (0, 99)


@documented
@dataclasses.dataclass(frozen=True, kw_only=True)
class ArithmeticTask:
    """Sums, differences and products of whole numbers, worked out with the usual precedence."""

    size: int = 4000
    """Rows. There are 1,980 different sums of two-digit numbers without carry; more rows repeat
    them with other mistakes."""
    min_operand: int = _RANGE[0]
    max_operand: int = _RANGE[1]
    """Operands are drawn from `min_operand` to `max_operand`, both included."""
    digits: int = 0
    """Instead of these two: all operands have this many digits; 0: see there."""
    terms: int = 2
    """Operands in a problem."""
    ops: str = "+"
    """Operators to draw from: some of +-*."""
    carry: bool = False
    """Also problems in which a column carries or borrows. Negative answers and products need it."""
    carry_share: float = 0.0
    """With `carry`: exactly this share of problems carries or borrows, such as 0.05 for a model
    that has seen few of them; 0: as they come."""
    noise: float = 0.5
    """Share of supervised answers that are wrong."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_options("arithmetic", size=self.size, noise=self.noise)
        check_operators("arithmetic", self.ops, "+-*")
        if self.terms < 2:
            raise DataError(f"synthetic:arithmetic needs terms of at least 2, got {self.terms}")
        if self.digits < 0:
            raise DataError(f"synthetic:arithmetic needs digits of at least 0, got {self.digits}")
        if self.digits and (self.min_operand, self.max_operand) != _RANGE:
            raise DataError(
                "synthetic:arithmetic takes either digits or min_operand and max_operand, not both"
            )
        if not 0 <= self.min_operand < self.max_operand:
            raise DataError(
                "synthetic:arithmetic needs 0 <= min_operand < max_operand, got "
                f"{self.min_operand} and {self.max_operand}"
            )
        check_share("arithmetic", "carry_share", self.carry_share)
        if self.carry_share and (not self.carry or "*" in self.ops):
            raise DataError(
                f"synthetic:arithmetic with carry_share={self.carry_share} needs carry=true and "
                f"ops without *, got carry={str(self.carry).lower()} and ops={self.ops}"
            )
        if not self.carry and "*" in self.ops:
            raise DataError(f"synthetic:arithmetic with ops={self.ops} needs carry=true")
        if (
            not self.carry
            and self.ops == "+"
            and _carries([self.operands[0]] * self.terms, "+" * (self.terms - 1))
        ):
            name, value = (
                ("digits", self.digits) if self.digits else ("min_operand", self.min_operand)
            )
            raise DataError(f"synthetic:arithmetic with {name}={value} needs carry=true")

    @property
    def operands(self) -> tuple[int, int]:
        """Smallest and largest operand."""
        if self.digits:
            return (10 ** (self.digits - 1) if self.digits > 1 else 0), 10**self.digits - 1
        return self.min_operand, self.max_operand

    def problem(self, draw: random.Random) -> Problem:
        """The next problem."""
        lowest, highest = self.operands
        wanted = draw.random() < self.carry_share if self.carry_share else None
        for _ in range(MAX_TRIES):
            terms = [draw.randint(lowest, highest) for _ in range(self.terms)]
            ops = [draw.choice(self.ops) if len(self.ops) > 1 else self.ops for _ in terms[1:]]
            if self._fits(terms, ops, wanted):
                prompt = str(terms[0]) + "".join(
                    f"{op}{term}" for op, term in zip(ops, terms[1:], strict=True)
                )
                answer = str(_result(terms, ops))
                return Problem(f"{prompt}=", answer, _slip(answer, draw))
        if wanted:
            raise DataError(
                "synthetic:arithmetic finds hardly any problem of this kind with carry: set "
                "carry_share=0"
            )
        raise DataError(
            "synthetic:arithmetic finds hardly any problem of this kind without carry: set "
            "carry=true"
        )

    def _fits(self, terms: Sequence[int], ops: Sequence[str], wanted: bool | None) -> bool:
        """Whether a drawn problem carries as it should; `wanted` None: as `carry` allows."""
        if wanted is None:
            return self.carry or not _carries(terms, ops)
        return _carries(terms, ops) == wanted


def _result(terms: Sequence[int], ops: Sequence[str]) -> int:
    """Products first, then sums from the left."""
    products = [[terms[0]]]
    signs = [1]
    for op, term in zip(ops, terms[1:], strict=True):
        if op == "*":
            products[-1].append(term)
        else:
            products.append([term])
            signs.append(1 if op == "+" else -1)
    return sum(sign * math.prod(factors) for sign, factors in zip(signs, products, strict=True))


def _carries(terms: Sequence[int], ops: Sequence[str]) -> bool:
    """Whether a column carries or borrows when sums and differences are worked from the left."""
    total = terms[0]
    for op, term in zip(ops, terms[1:], strict=True):
        columns = [
            (int(a), int(b)) for a, b in zip(str(total)[::-1], str(term)[::-1], strict=False)
        ]
        if op == "+" and any(a + b > 9 for a, b in columns):
            return True
        if op == "-" and (term > total or any(a < b for a, b in columns)):
            return True
        total += term if op == "+" else -term
    return False


def _slip(answer: str, draw: random.Random) -> str:
    """The answer with one digit wrong, every wrong digit being as likely (no leading zero)."""
    sign, digits = ("-", answer[1:]) if answer.startswith("-") else ("", answer)
    place = draw.randrange(len(digits))
    lowest = "1" if place == 0 and len(answer) > 1 else "0"
    digit = draw.choice(
        [digit for digit in "0123456789" if digit >= lowest and digit != digits[place]]
    )
    return sign + digits[:place] + digit + digits[place + 1 :]
