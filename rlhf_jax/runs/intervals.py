"""How far a few seeds carry: interquartile mean and bootstrap intervals (Agarwal et al. 2021, "Deep
Reinforcement Learning at the Edge of the Statistical Precipice", arXiv:2108.13264)."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

FEWEST = 3
"""Seeds below which an interval would only pretend to know something."""
REPEATS = 10_000
LEVEL = 0.95


class Estimate(NamedTuple):
    """A statistic over seeds."""

    value: float
    low: float
    high: float
    """Bounds of the interval; NaN below `FEWEST` seeds."""
    seeds: int


def interquartile_mean(scores: np.ndarray) -> float:
    """Mean of the middle half: without the lowest and the highest quarter of all scores, each
    rounded down to whole scores (as `scipy.stats.trim_mean(scores, 0.25)`, which section 4.3 of the
    paper uses). Up to three scores it is the mean.

    Args:
      scores: of any shape; at least one, without NaN.
    """
    ordered = np.sort(np.asarray(scores, np.float64).reshape(-1))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def stratified_bootstrap(
    scores: np.ndarray,
    statistic: Callable[[np.ndarray], float] = interquartile_mean,
    *,
    seed: int = 0,
    repeats: int = REPEATS,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Percentile interval of a statistic, seeds drawn anew inside of each task (section 4.2 of the
    paper: the strata are the tasks).

    Args:
      scores: [N seeds, M tasks].
      statistic: of an array of that shape.
      seed: of the draws; the same one gives the same interval.
      repeats: draws.
      level: share of them that lie inside.

    Returns:
      (low, high).
    """
    scores = np.asarray(scores, np.float64)
    seeds, tasks = scores.shape
    random = np.random.default_rng(seed)
    found = np.empty(repeats)
    for place in range(repeats):
        drawn = random.integers(seeds, size=(seeds, tasks))
        found[place] = statistic(np.take_along_axis(scores, drawn, axis=0))
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def estimate(values: list[float]) -> Estimate:
    """Interquartile mean over seeds of one number a seed, with its interval; of values that are
    known. Without one: NaN."""
    return estimate_of(np.asarray(values, np.float64)[:, None], interquartile_mean)


def estimate_of(
    scores: np.ndarray, statistic: Callable[[np.ndarray], float], *, level: float = LEVEL
) -> Estimate:
    """A statistic over seeds, with its interval; of the seeds whose scores are all known. Without
    one: NaN.

    Args:
      scores: [N seeds, M]; the columns are drawn anew apart from each other.
      statistic: of an array of that shape, of N' seeds.
      level: share of the draws that lie inside of the interval.
    """
    known = scores[np.isfinite(scores).all(axis=1)]
    if not len(known):
        return Estimate(np.nan, np.nan, np.nan, 0)
    middle = statistic(known)
    if len(known) < FEWEST:
        return Estimate(middle, np.nan, np.nan, len(known))
    return Estimate(middle, *stratified_bootstrap(known, statistic, level=level), len(known))


def estimate_crossed(
    scores: np.ndarray,
    statistic: Callable[[np.ndarray], float] = interquartile_mean,
    *,
    level: float = LEVEL,
) -> Estimate:
    """A statistic over seeds of the mean over prompts, with an interval over both: seeds and
    prompts are drawn anew, each by itself, as every seed is measured on the same prompts.

    Args:
      scores: [N seeds, P prompts]; a seed that knows of no prompt (NaN) is left out, then every
        prompt that one of the others knows nothing of.
      statistic: of an array of N' numbers, one a seed.
      level: share of the draws that lie inside of the interval.
    """
    scores = np.asarray(scores, np.float64)
    scores = scores[np.isfinite(scores).any(axis=1)]
    scores = scores[:, np.isfinite(scores).all(axis=0)]
    seeds, prompts = scores.shape
    if not scores.size:
        return Estimate(np.nan, np.nan, np.nan, 0)
    middle = statistic(scores.mean(axis=1))
    if seeds < FEWEST:
        return Estimate(middle, np.nan, np.nan, seeds)
    random = np.random.default_rng(0)
    found = np.empty(REPEATS)
    for place in range(REPEATS):
        # How often each prompt is drawn: the weights of a mean over drawn prompts.
        weights = random.multinomial(prompts, np.full(prompts, 1 / prompts)) / prompts
        drawn = scores[random.integers(seeds, size=seeds)]
        found[place] = statistic(drawn @ weights)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(middle, float(low), float(high), seeds)
