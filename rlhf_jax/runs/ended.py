"""A comparison as tables, further: what each run ended with, and what was tried for it before."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlhf_jax.loops.held_out import SEQUENCE_KL
from rlhf_jax.runs.budgets import Measured, Table, by_name, describe
from rlhf_jax.runs.intervals import estimate
from rlhf_jax.runs.tuning import means

START = "start"
Tuning = Mapping[str, Mapping[str, Any]]
"""Name of a tuned run -> `asked`, the chosen `value`, and the `trials`, as `tune` gives them."""


def ended_table(runs: list[Measured], metric: str, tuning: Tuning) -> Table:
    """Held-out metrics after training: interquartile means over seeds, with a 95 % interval from 3
    seeds on.

    Where all runs of a seed go on from one model, the first row is that model's.

    Args:
      runs: of all names and seeds.
      metric: what is compared; the first column of metrics.
      tuning: what was chosen for some of the runs; empty: nothing was.
    """
    metrics = _metrics(runs, metric)
    keys = sorted({found["asked"]["key"].rpartition(".")[2] for found in tuning.values()})
    columns = ["run", "seeds", *keys, *metrics, "generated tokens"]
    rows = []
    start = _start(runs, metric)
    if start:
        rows.append([START, str(len(start)), *([""] * len(keys)), *_line(start, metrics), "0"])
    for name, seeds in by_name(runs).items():
        ends = [run.curve[-1] for run in seeds]
        value = _shown(tuning[name]["value"]) if name in tuning else ""
        tokens = f"{np.mean([point['tokens'] for point in ends]):,.0f}"
        rows.append(
            [name, str(len(seeds)), *([value] if keys else []), *_line(ends, metrics), tokens]
        )
    return Table(columns, rows)


def tuning_table(tuning: Tuning) -> Table:
    """What each value reached on the tuning seeds, their mean; the one that was taken is bold, and
    what could not be judged has none."""
    reached = {
        name: {repr(value): mean for value, mean in means(found["trials"])}
        for name, found in tuning.items()
    }
    tried = {repr(value): value for found in tuning.values() for value, _ in means(found["trials"])}
    rows = []
    for name, found in tuning.items():
        means_of = [reached[name].get(value, float("nan")) for value in tried]
        texts = [f"{mean:.3f}" if mean == mean else "-" for mean in means_of]
        taken = list(tried).index(repr(found["value"]))
        texts[taken] = f"**{texts[taken]}**"
        rows.append([name, *texts])
    short = [_shown(value) for value in tried.values()]
    by = sorted({found["asked"].get("metric") or "" for found in tuning.values()} - {""})
    first = f"run, by {by[0]}" if by else "run"
    return Table([first, *(short if len(set(short)) == len(short) else tried)], rows)


def _shown(value: Any) -> str:
    """A value of any option; numbers are short."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _metrics(runs: list[Measured], metric: str) -> list[str]:
    """Names of the columns: all accuracies, and of sampled answers the further rewards and the KL
    from the start."""
    names = list(dict.fromkeys(name for run in runs for name in run.curve[-1]))
    accuracies = [name for name in names if name.startswith("accuracy/") and name != metric]
    rewards = [
        name
        for name in names
        if name.startswith("rewards/")
        and name.endswith("_sampled")
        and name != "rewards/ungraded_sampled"
        and not _is_same(runs, name, metric)
    ]
    further = [name for name in names if name == SEQUENCE_KL]
    return [metric, *accuracies, *rewards, *further]


def _is_same(runs: list[Measured], name: str, metric: str) -> bool:
    """Whether a reward says what the metric says already: that of right and wrong does."""
    ends = [run.curve[-1] for run in runs]
    # Two means of the same numbers, one of them in float32.
    return all(math.isclose(end[name], end[metric], rel_tol=1e-6) for end in ends if name in end)


def _start(runs: list[Measured], metric: str) -> list[dict[str, float]]:
    """The first measurement of every seed; empty where runs of one seed do not begin alike."""
    found: dict[int, dict[str, float]] = {}
    for run in runs:
        first = run.curve[0]
        if found.setdefault(run.seed, first)[metric] != first[metric]:
            return []
    return list(found.values())


def _line(points: list[dict[str, float]], metrics: list[str]) -> list[str]:
    """A cell per metric, over seeds."""
    return [
        describe(estimate([point.get(name, float("nan")) for point in points]), of=len(points))
        for name in metrics
    ]
