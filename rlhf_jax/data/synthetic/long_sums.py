"""Long sums with running totals: "3+8+5=" wants "11 16####16" or "3+8=11 11+5=16####16".

Both styles are right. The terse one writes the totals, the verbose one every step, at about 8
against 3 characters a term, so that answers differ in length by much more than in worth, and a
limit on length cuts the verbose ones. The number behind "####" is what `exact_match` reads. A
mistake has one wrong total and goes on from there.
"""

import dataclasses
import random

from rlhf_jax.data.errors import DataError
from rlhf_jax.data.synthetic.problem import Problem, check_options, check_share
from rlhf_jax.fields import documented


@documented
@dataclasses.dataclass(frozen=True, kw_only=True)
class LongSumsTask:
    """Sums of many one-digit numbers, worked out step by step in one of two styles."""

    size: int = 4000
    """Rows."""
    min_terms: int = 6
    max_terms: int = 20
    """Terms of a sum are from `min_terms` to `max_terms`, both included."""
    max_digit: int = 9
    """Largest term: with small ones there are few additions to learn, however long the sum is."""
    verbose_share: float = 0.5
    """Share of answers in the verbose style."""
    noise: float = 0.5
    """Share of supervised answers that are wrong."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_options("long_sums", size=self.size, noise=self.noise)
        if not 2 <= self.min_terms <= self.max_terms:
            raise DataError(
                "synthetic:long_sums needs 2 <= min_terms <= max_terms, got "
                f"{self.min_terms} and {self.max_terms}"
            )
        if not 1 <= self.max_digit <= 9:
            raise DataError(
                f"synthetic:long_sums needs max_digit from 1 to 9, got {self.max_digit}"
            )
        check_share("long_sums", "verbose_share", self.verbose_share)

    def problem(self, draw: random.Random) -> Problem:
        """The next problem."""
        count = draw.randint(self.min_terms, self.max_terms)
        terms = [draw.randint(0, self.max_digit) for _ in range(count)]
        verbose = draw.random() < self.verbose_share
        slip = draw.randrange(1, count)
        off = draw.choice([-10, -2, -1, 1, 2, 10])
        if sum(terms[: slip + 1]) + off < 0:
            off = -off  # a running total is never negative
        return Problem(
            f"{'+'.join(map(str, terms))}=",
            _worked(terms, verbose=verbose),
            _worked(terms, verbose=verbose, slip=slip, off=off),
        )


def _worked(terms: list[int], *, verbose: bool, slip: int = 0, off: int = 0) -> str:
    """The steps and the final total; the total after term `slip` (from 1) is wrong by `off`."""
    total = terms[0]
    steps = []
    for place, term in enumerate(terms[1:], start=1):
        before = total
        total += term + (off if place == slip else 0)
        steps.append(f"{before}+{term}={total}" if verbose else str(total))
    return f"{' '.join(steps)}####{total}"
