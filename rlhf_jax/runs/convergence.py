"""How soon a run gets somewhere: to a share of its own final level, and to a level that others
reach too."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_jax.runs.budgets import Measured

SHARE = 0.95
"""Of the way from the start to the final level."""


class Reached(NamedTuple):
    """When a run got to a level."""

    cost: float
    """At the first evaluation there; of the whole run where it never was."""
    is_never: bool


def ends_above_start(run: Measured, metric: str) -> bool:
    """Whether training made anything better, at its last evaluation; NaN is not better."""
    return _value(run.curve[-1], metric) > _value(run.curve[0], metric)


def own_level(run: Measured, metric: str, *, share: float = SHARE) -> float:
    """The level at a share of the way from a run's start to its end; NaN where it does not end
    above its start, so that there is nothing to get to."""
    if not ends_above_start(run, metric):
        return float("nan")
    first = run.curve[0][metric]
    last = run.curve[-1][metric]
    return min(first + share * (last - first), last)  # by rounding the sum may lie above the last


def common_level(runs: Sequence[Measured], metric: str) -> float:
    """The lowest final level of several runs, which all but the failed ones have reached.

    Runs that do not end above their start do not count: from the start on, everybody has what they
    end with. NaN where no run counts.

    Args:
      runs: of one seed.
      metric: of their evaluations.
    """
    levels = [run.curve[-1][metric] for run in runs if ends_above_start(run, metric)]
    return min(levels, default=float("nan"))


def cost_to(run: Measured, metric: str, level: float, cost: str) -> Reached:
    """What a run had spent when it first measured a level.

    Only evaluations after the start count, and only of runs that end above their start: one that
    starts at the level and gets worse has not reached it for nothing. What never happens counts as
    the whole budget, which is the least it can have cost.

    Args:
      run: with its evaluations.
      metric: of them.
      level: that is to be reached; NaN: never is.
      cost: "step", "tokens" or "seconds".
    """
    if ends_above_start(run, metric):
        for point in run.curve[1:]:
            if _value(point, metric) >= level:
                return Reached(point[cost], False)
    return Reached(run.curve[-1][cost], True)


def convergence(runs: Sequence[Measured], metric: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Both figures of every run of a comparison, for its results.json.

    Args:
      runs: all that are made.
      metric: of their evaluations.

    Returns:
      (run, seed) -> {"own", "common"}: {"level", "is_never", "step", "tokens", "seconds"}. The
      common level is the lowest that the trained runs of a seed end with. Runs that train nothing
      have neither.
    """
    trained = [run for run in runs if run.is_trained]
    levels = {
        seed: common_level([run for run in trained if run.seed == seed], metric)
        for seed in {run.seed for run in trained}
    }
    return {
        (run.name, run.seed): {
            "own": _figures(run, metric, own_level(run, metric)),
            "common": _figures(run, metric, levels[run.seed]),
        }
        for run in trained
    }


def _figures(run: Measured, metric: str, level: float) -> dict[str, Any]:
    reached = {cost: cost_to(run, metric, level, cost) for cost in ("step", "tokens", "seconds")}
    return {
        "level": level,
        "is_never": reached["step"].is_never,
        **{cost: found.cost for cost, found in reached.items()},
    }


def _value(point: Mapping[str, float], metric: str) -> float:
    """NaN where nothing of the evaluation could be judged."""
    return point.get(metric, float("nan"))
