"""A run's metrics as columns of bounded length, for drawing."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_jax.runs.clock import Cost, knows_compiling
from rlhf_jax.runs.report.headline import names_of
from rlhf_jax.runs.report.reading import Run

MOST_POINTS = 600
"""Of a line; where there are more rows, neighbours are averaged."""
TIMED = frozenset(
    {
        "tokens_per_second",
        "sampler/tokens_per_second",
        "time/step",
        "time/generate",
        "time/reward",
        "time/score",
        "time/update",
        "mfu",
    }
)
"""What a step in which something was compiled says nothing about."""
COMPILED_SHARE = 0.05
"""Of a step's time: with more compiling than this, the step is left out of `TIMED`."""
SLOW = 3.0
"""Times the median: so long a first step is taken to have compiled, in runs that do not say."""


class Series(NamedTuple):
    """All metrics of one split of a run."""

    step: list[float]
    seconds: list[float]
    """Of training until there; compilation and evaluations do not count."""
    tokens: list[float]
    """Generated until there."""
    metrics: dict[str, list[float | None]]
    """None: no value, or one that cannot be drawn."""
    averaged: int
    """Rows behind each point."""


class Compiled(NamedTuple):
    """A step that compiled."""

    step: int
    seconds: float | None
    """None where the run does not say."""


def series_of(run: Run, split: str) -> Series:
    """The columns of a split."""
    pairs = [
        (row, cost) for row, cost in zip(run.rows, run.costs, strict=True) if row["split"] == split
    ]
    size = max(1, math.ceil(len(pairs) / MOST_POINTS))
    blocks = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    slow = {mark.step for mark in compiled_steps(run)} if split == "train" else set()
    return Series(
        step=[_short(block[-1][0]["step"]) for block in blocks],
        seconds=[_short(block[-1][1].seconds) for block in blocks],
        tokens=[_short(block[-1][1].tokens) for block in blocks],
        metrics={
            name: [_mean(block, name, slow if name in TIMED else set()) for block in blocks]
            for name in names_of(run, split)
        },
        averaged=size,
    )


def compiled_steps(run: Run) -> list[Compiled]:
    """Training rows that spent a good part of their time on compiling."""
    rows = run.of("train")
    if knows_compiling(run.rows):
        return [
            Compiled(row["step"], row["time/compile"])
            for row in rows
            if row.get("time/compile", 0.0) > COMPILED_SHARE * row.get("time/step", 0.0)
        ]
    times = [row["time/step"] for row in rows if "time/step" in row]
    if len(times) < 2 or times[0] < SLOW * statistics.median(times):
        return []
    return [Compiled(rows[0]["step"], None)]


def throughput(run: Run) -> float | None:
    """Median tokens per second of steps that compiled nothing; None without such a step."""
    slow = {mark.step for mark in compiled_steps(run)}
    values = [value for step, value in run.values("train", "tokens_per_second") if step not in slow]
    return statistics.median(values) if values else None


def _mean(
    block: Sequence[tuple[Mapping[str, Any], Cost]], name: str, left_out: set[int]
) -> float | None:
    values = [
        row[name]
        for row, _ in block
        if name in row and math.isfinite(row[name]) and row["step"] not in left_out
    ]
    return _short(sum(values) / len(values)) if values else None


def _short(value: float) -> float:
    """Five digits: more than a chart can show."""
    short = float(f"{value:.5g}") if abs(value) < 1e5 else float(round(value))
    return int(short) if short.is_integer() else short
