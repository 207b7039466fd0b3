"""Runs as tables of text: one run in detail, several side by side, or a folder of runs as a
list."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from rlhf_jax.algorithms.directions import better
from rlhf_jax.runs.clock import knows_compiling
from rlhf_jax.runs.report.grouping import Group, differences, group_runs, shortest_names
from rlhf_jax.runs.report.headline import Headline, headline_of, names_of
from rlhf_jax.runs.report.panels import panels_of
from rlhf_jax.runs.report.reading import Run
from rlhf_jax.runs.report.series import throughput

SPLITS = {"train": "training", "eval": "held out"}


class Table(NamedTuple):
    """What is printed as one table."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    numbers: int
    """Columns at the end that are right-aligned."""


def list_of_runs(runs: Sequence[Run]) -> Table:
    """A line a run: what it is, how far it came, and what it reached."""
    rows = []
    for run, name in zip(runs, shortest_names([run.path.resolve() for run in runs]), strict=True):
        head = headline_of(run)
        rows.append(
            [
                name,
                run.algorithm,
                run.state,
                steps_words(run),
                _last_reward(run),
                "-" if head is None else f"{head.metric} ({SPLITS[head.split]})",
                _of(head, "first"),
                _of(head, "last"),
                "-" if head is None else f"{_text(head.best)} at {head.best_step}",
            ]
        )
    columns = ["run", "algorithm", "state", "steps", "last reward", "judged by"]
    columns += ["first", "last", "best at step"]
    title = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    return Table(title, columns, rows, 3)


def one_run(run: Run) -> Table:
    """Every metric of a run: first, last and best value, in the order of the report's charts."""
    panels, constant = panels_of([run])
    rows = []
    for panel in panels:
        for line in panel.lines:
            rows.append(_metric_row(run, line.split, line.metric))
    for name, value in sorted(constant.items()):
        split = "train" if name in names_of(run, "train") else "eval"
        rows.append([name, SPLITS[split], _text(value), _text(value), "never changed"])
    title = f"{run.path}: {run.algorithm}, {run.state}, {steps_words(run)} steps"
    return Table(title, ["metric", "split", "first", "last", "best at step"], rows, 3)


def side_by_side(runs: Sequence[Run]) -> Table:
    """A column a run: what it cost and what it reached."""
    names = shortest_names([run.path.resolve() for run in runs])
    heads = [headline_of(run) for run in runs]
    rows = [
        ["algorithm", *(run.algorithm for run in runs)],
        ["state", *(run.state for run in runs)],
        ["steps", *(steps_words(run) for run in runs)],
        ["seed", *("-" if run.seed is None else str(run.seed) for run in runs)],
        ["judged by", *("-" if head is None else head.words for head in heads)],
        ["  first", *(_of(head, "first") for head in heads)],
        ["  last", *(_of(head, "last") for head in heads)],
        ["  best", *(_of(head, "best") for head in heads)],
        ["  at step", *("-" if head is None else str(head.best_step) for head in heads)],
        ["seconds of training", *(_cost(run, "seconds") for run in runs)],
        ["seconds of compiling", *(_compiling(run) for run in runs)],
        ["seconds of evaluations", *(_cost(run, "evaluating") for run in runs)],
        ["tokens generated", *(_cost(run, "tokens") for run in runs)],
        ["tokens per second", *(_text(throughput(run)) for run in runs)],
    ]
    for split, metric in _common(runs):
        values = [run.values(split, metric) for run in runs]
        last = [points[-1][1] if points else None for points in values]
        rows.append([f"{metric} ({SPLITS[split]})", *map(_text, last)])
    title = f"{len(runs)} runs; of metrics the last value"
    return Table(title, ["", *names], rows, len(runs))


def differences_of(runs: Sequence[Run]) -> Table | None:
    """Keys of the configuration that differ; None for seeds of one configuration."""
    groups: list[Group] = group_runs(runs)
    found = differences(runs, groups)
    if not found:
        return None
    rows = [[change.key, *change.values] for change in found]
    return Table("what differs", ["key", *(group.name for group in groups)], rows, 0)


def steps_words(run: Run) -> str:
    """Steps made, of how many where the configuration says so."""
    total = run.total_steps
    return f"{run.step:,}" if total is None else f"{run.step:,} of {total:,}"


def _metric_row(run: Run, split: str, metric: str) -> list[str]:
    points = [(step, value) for step, value in run.values(split, metric) if math.isfinite(value)]
    # The loss of a policy gradient says nothing of how good the policy is.
    says_nothing = run.is_online and metric in ("loss/total", "loss/policy")
    mode = None if says_nothing else better(metric)
    best = "-"
    if mode is not None:
        step, value = (max if mode == "max" else min)(points, key=lambda point: point[1])
        best = f"{_text(value)} at {step}"
    return [metric, SPLITS[split], _text(points[0][1]), _text(points[-1][1]), best]


def _common(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """What is judged and healthy or not, of any of the runs, in the order of the report."""
    panels, _ = panels_of(runs)
    lines = [
        line for panel in panels if panel.section in ("judged", "health") for line in panel.lines
    ]
    return [(line.split, line.metric) for line in lines]


def _of(head: Headline | None, field: str) -> str:
    return "-" if head is None else _text(head._asdict()[field])


def _cost(run: Run, field: str) -> str:
    return _text(run.costs[-1]._asdict()[field]) if run.costs else "-"


def _compiling(run: Run) -> str:
    return _cost(run, "compiling") if knows_compiling(run.rows) else "not known"


def _last_reward(run: Run) -> str:
    points = run.values("train", "rewards/mean")
    return _text(points[-1][1]) if points else "-"


def _text(value: float | None) -> str:
    """Four digits; whole numbers from 10 on in full."""
    if value is None or value != value:
        return "-"
    if math.isfinite(value) and float(value).is_integer() and abs(value) >= 10:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < math.inf else f"{value:.4g}"
