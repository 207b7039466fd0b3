"""What one measurement of a claim has found, and how it is estimated over seeds."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.config import ClaimsConfig
from rlhf_jax.runs.claims.verdict import Side, is_excluded, verdict
from rlhf_jax.runs.intervals import Estimate, estimate_crossed, estimate_of, interquartile_mean

STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "interquartile_mean": interquartile_mean,
    "mean": lambda scores: float(np.mean(scores)),
    "median": lambda scores: float(np.median(scores)),
}
Combine = Callable[[float, float], float]
"""A figure of two runs from one number of each."""


class Form(NamedTuple):
    """How a figure is written."""

    is_share: bool = False
    """As so many per cent."""
    is_signed: bool = False

    def text(self, value: float) -> str:
        """Such as "+0.092" or "40.0 %"; "-" for what is not known."""
        if value != value:
            return "-"
        sign = "+" if self.is_signed else ""
        if self.is_share:
            # Below 1 % one decimal place would hide what is claimed.
            digits = 2 if 0.00005 <= abs(value) < 0.01 else 1
            return f"{_rounded(100 * value, digits):{sign}.{digits}f} %"
        return f"{_rounded(value, 3):{sign}.3f}"


def _rounded(value: float, digits: int) -> float:
    return round(value, digits) + 0.0  # never -0.0, which would be written as "-0.0"


class Finding(NamedTuple):
    """One row of a table."""

    what: str
    """That is measured."""
    value: float
    low: float
    high: float
    """Ends of the interval; equal to `value` for what has no chance in it, NaN without one."""
    verdict: str
    is_excluded: bool
    """Whether the claimed figure lies outside of the interval, on the side that is short of it."""
    behind: str
    """Samples that it rests on."""
    note: str
    form: Form
    is_exact: bool = False
    """There is no chance in it."""

    @property
    def interval(self) -> str:
        """In words."""
        if self.low != self.low:
            return "-"
        if self.is_exact:
            return "exact"
        return f"{self.form.text(self.low)} to {self.form.text(self.high)}"

    @property
    def said(self) -> str:
        """The verdict, with what becomes of the figure where that is not part of the word."""
        if self.verdict != "direction only":
            return self.verdict
        return f"{self.verdict}, figure {'excluded' if self.is_excluded else 'open'}"


def found(
    what: str,
    claimed: float,
    estimate: Estimate,
    *,
    form: Form,
    behind: str,
    note: str = "",
    side: Side | None = None,
) -> Finding:
    """A row with its verdict.

    Args:
      what: that is measured.
      claimed: the figure.
      estimate: of it, with its interval.
      form: how it is written.
      behind: samples that it rests on.
      note: what else is to be known.
      side: of a bound; None: the sign of `claimed` says the side, and 0 is no effect.
    """
    where: Side = side or ("above" if claimed > 0 else "below")
    nothing = 0.0 if side is None else None
    low = estimate.low
    high = estimate.high
    return Finding(
        what,
        estimate.value,
        low,
        high,
        verdict(claimed, low, high, side=where, nothing=nothing),
        is_excluded(claimed, low, high, side=where),
        behind,
        note,
        form,
    )


def over_seeds(values: Sequence[float], config: ClaimsConfig) -> Estimate:
    """One number a seed as the statistic that the claims ask for, with its interval."""
    scores = np.asarray(values, np.float64)[:, None]
    return estimate_of(scores, STATISTICS[config.statistic], level=config.confidence)


def over_pairs(
    pairs: Sequence[tuple[float, float]], combine: Combine, config: ClaimsConfig
) -> Estimate:
    """Two numbers a seed as one statistic, with its interval.

    Paired, `combine` makes one number of each seed, and the statistic is that of these. Not paired,
    each run has its statistic, `combine` makes one number of the two, and the bootstrap draws the
    seeds of each run for itself.

    Args:
      pairs: (number of the run, number of the other one) by seed; a seed that lacks one is left
        out.
      combine: two numbers to one; NaN where there is none.
      config: says pairing and statistic.
    """
    if config.pairing == "seed":
        return over_seeds([combine(*pair) for pair in pairs], config)
    middle = STATISTICS[config.statistic]

    def statistic(scores: np.ndarray) -> float:
        return combine(middle(scores[:, 0]), middle(scores[:, 1]))

    return estimate_of(
        np.asarray(pairs, np.float64).reshape(-1, 2), statistic, level=config.confidence
    )


def over_prompts(scores: np.ndarray, config: ClaimsConfig) -> Estimate:
    """A number for each seed and prompt as the statistic over seeds of the mean over prompts, with
    an interval over both.

    Args:
      scores: [seeds, prompts].
      config: says the statistic.
    """
    return estimate_crossed(scores, STATISTICS[config.statistic], level=config.confidence)


def difference(first: float, second: float) -> float:
    """How much larger the first is."""
    return first - second


def relative_difference(first: float, second: float) -> float:
    """The same as a share of the second's size, so that its sign still says which is larger; NaN
    where that is 0."""
    return (first - second) / abs(second) if second else float("nan")


def saving(first: float, second: float) -> float:
    """How much less the first is, as a share of the second; NaN where that is 0."""
    return 1 - first / second if second else float("nan")


def seeds_text(used: int, planned: int) -> str:
    """How many seeds there are, such as "10 seeds" or "7 of 10 seeds"."""
    return f"{used} seeds" if used == planned else f"{used} of {planned} seeds"
