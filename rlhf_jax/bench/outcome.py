"""What a comparison found: a gate, and the times of its sides."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rlhf_jax.bench.timing import Timing

CALM = 0.1
"""Largest spread of the windows of a side whose median is taken for a ratio."""


class Side(NamedTuple):
    """One side of a comparison."""

    name: str
    timing: Timing
    peak: int | None = None
    """Largest resident set of its process, bytes."""
    note: str = ""

    @property
    def spread(self) -> float:
        """Half the range of the windows as a share of their median."""
        return (self.timing.high - self.timing.low) / (2 * self.timing.median)


class Outcome(NamedTuple):
    """One comparison. Ratios are to the first side."""

    title: str
    gate: str
    """What must agree before times mean anything, and how well it does."""
    passed: bool
    sides: tuple[Side, ...] = ()
    """None where the gate was not passed."""

    def ratio(self, side: Side) -> float | None:
        """How many times as long a side takes as the first one, by the medians; None where windows
        of one of the two differ so much that their medians say little."""
        first = self.sides[0]
        if max(side.spread, first.spread) > CALM:
            return None
        return side.timing.median / first.timing.median

    def ratios(self, side: Side) -> tuple[float, float]:
        """The least and the largest ratio that the windows allow."""
        first = self.sides[0].timing
        return side.timing.low / first.high, side.timing.high / first.low

    def plain(self) -> dict[str, Any]:
        """What JSON holds: seconds and bytes."""
        sides = []
        for side in self.sides:
            low, high = self.ratios(side)
            sides.append(
                {
                    "name": side.name,
                    "seconds": side.timing._asdict(),
                    "spread": side.spread,
                    "ratio": self.ratio(side),
                    "ratio_range": [low, high],
                    "peak_bytes": side.peak,
                    "note": side.note,
                }
            )
        return {"title": self.title, "gate": self.gate, "passed": self.passed, "sides": sides}


NO_TIMES = "the sides do not compute the same: there are no times"


def ratio_text(outcome: Outcome, side: Side) -> str:
    """A ratio, or why there is none."""
    if side is outcome.sides[0]:
        return "1"
    ratio = outcome.ratio(side)
    if ratio is not None:
        return f"{ratio:.2f}"
    low, high = outcome.ratios(side)
    worst = max(side.spread, outcome.sides[0].spread)
    return f"none: {low:.2f} to {high:.2f}, windows differ by ±{worst:.0%}"


def lines(outcome: Outcome) -> Iterator[str]:
    """A comparison as text.

    Args:
      outcome: what was found.
    """
    yield outcome.title
    yield outcome.gate
    if not outcome.passed:
        yield NO_TIMES
        return
    width = max(len(side.name) for side in outcome.sides)
    for side in outcome.sides:
        peak = "" if side.peak is None else f"   peak {side.peak / 1e9:.2f} GB"
        note = f"   {side.note}" if side.note else ""
        ratio = ratio_text(outcome, side)
        yield f"  {side.name:{width}} {side.timing}   x {ratio}{peak}{note}"


def show(outcomes: Sequence[Outcome]) -> int:
    """Prints comparisons.

    Returns:
      Exit status: 1 when a gate was not passed.
    """
    for outcome in outcomes:
        for line in lines(outcome):
            print(line)
    return 0 if all(outcome.passed for outcome in outcomes) else 1
