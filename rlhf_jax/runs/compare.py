"""`compare(config)`: several algorithms from one starting model, measured on the same held-out
prompts."""

import json
import logging
import pathlib
import time
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.algorithms import algorithm_name
from rlhf_jax.cloud import is_address
from rlhf_jax.config import CompareConfig, Config, MeasureConfig, StageConfig
from rlhf_jax.errors import TrainingError
from rlhf_jax.fields import documented
from rlhf_jax.io import Checkpointer, plot_curves, read_metrics
from rlhf_jax.io.interrupt import ending_in_order
from rlhf_jax.io.words import held_out_line
from rlhf_jax.runs.budgets import (
    OVER,
    Measured,
    Table,
    best_name,
    budget_table,
    paired_table,
    table,
)
from rlhf_jax.runs.clock import Cost, costs, knows_compiling
from rlhf_jax.runs.compilation import keep_programs
from rlhf_jax.runs.evaluate import evaluate_checkpoints, evaluate_folder
from rlhf_jax.runs.footprint import run_bytes
from rlhf_jax.runs.result import RunResult
from rlhf_jax.runs.story import Story
from rlhf_jax.runs.train import train

_log = logging.getLogger(__name__)
AT_BUDGETS = (
    "Held-out accuracy at equal budgets of generated tokens, steps and seconds of training "
    "(without start, compilation and evaluations): the last measurement within the budget "
    f"(or up to {OVER:.0%} over it); "
    "interquartile mean over seeds, with a 95 % bootstrap interval from 3 seeds on"
)
PAIRED = "Difference to the best row after training, seed by seed"


@documented
class Comparison(NamedTuple):
    """What a comparison found."""

    metric: str
    """The held-out metric compared."""
    target: float
    """`reach` of the best value that any run had."""
    runs: list[Measured]
    columns: list[str]
    rows: list[list[str]]
    """The table: one row per name, mean ± standard deviation over seeds."""
    best: str
    """Name of the best row after training, by interquartile mean."""
    budgets: Table
    """What each row had reached at equal budgets."""
    paired: Table
    """How the others differ from the best row, seed by seed."""
    seconds: dict[str, float]
    """Wall time of every stage."""
    folder: pathlib.Path


def compare(config: CompareConfig, *, progress: bool | None = None) -> Comparison:
    """Makes the start and the preparations, trains every run for every seed, and writes table and
    picture.

    Every run goes through `train`, so that one that was interrupted goes on, and a finished one is
    not made again.

    Args:
      config: from `load_compare` or `make_compare`.
      progress: as for `train`.

    Returns:
      A `Comparison`; its folder holds compare.json, compare.md and compare.png.

    Raises:
      ValueError: a configuration cannot be used, or the held-out prompts have no accuracy.
      KeyboardInterrupt: a signal ended a run; the same call goes on from there.
    """
    with keep_programs(_cache(config)), ending_in_order(lambda: "finished runs are kept"):
        return _compare(config, progress)


def _cache(config: CompareConfig) -> str | None:
    """Where the runs keep compiled programs."""
    first = config.run_config(config.runs[0], config.seeds[0])
    return first.training.compilation_cache


def _compare(config: CompareConfig, progress: bool | None) -> Comparison:
    """Everything, stage by stage."""
    if is_address(config.run_dir):
        raise ValueError(
            f"run_dir={config.run_dir} is in a bucket: comparisons are written to a folder of this "
            "machine (rlhf-jax train takes buckets)"
        )
    folder = pathlib.Path(config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compare.yaml").write_text(config.to_yaml(), encoding="utf-8")
    first = config.seeds[0]
    seconds = {}
    before_runs = config.stages[: -len(config.runs)]
    story = Story(len(before_runs) + len(config.runs) * len(config.seeds))
    for stage in before_runs:
        clock = time.perf_counter()
        made = config.run_config(stage, first)
        with story.chapter(stage.name, _title(stage, made)):
            _train(made, progress)
        seconds[stage.name] = time.perf_counter() - clock
    measuring = config.measuring_config(first)
    metric = accuracy_metric(measuring)
    before = evaluate_folder(measuring)
    if metric not in before:
        raise ValueError(
            f"prompts.rewards: no reward says right or wrong ({metric} is missing); put such a one "
            "first"
        )
    _log.info("all go on from here, held-out: %s", held_out_line(before))
    runs = []
    for stage in config.runs:
        clock = time.perf_counter()
        for seed in config.seeds:
            made = config.run_config(stage, seed)
            several = f" (seed {seed})" if len(config.seeds) > 1 else ""
            with story.chapter(f"{stage.name}{several}", f"{_title(stage, made)}{several}"):
                runs.append(_measure(config, stage, seed, progress))
        seconds[stage.name] = time.perf_counter() - clock
    for point in (point for run in runs for point in run.curve):
        for name in (metric, "accuracy/greedy"):  # nothing of that evaluation could be judged
            point.setdefault(name, float("nan"))
    best = max(
        (point[metric] for run in runs for point in run.curve if point[metric] == point[metric]),
        default=None,
    )
    if best is None:
        raise TrainingError(
            f"no evaluation of the compared runs could be judged: none has {metric}"
        )
    target = config.reach * best
    columns, rows = table(runs, metric, target, reach=config.reach)
    leading = best_name(runs, metric)
    found = Comparison(
        metric=metric,
        target=target,
        runs=runs,
        columns=columns,
        rows=rows,
        best=leading,
        budgets=budget_table(runs, metric),
        paired=paired_table(runs, metric, leading),
        seconds=seconds,
        folder=folder,
    )
    write(found, reach=config.reach)
    return found


def accuracy_metric(measuring: MeasureConfig) -> str:
    """The share of right samples, or of right greedy answers when none are sampled."""
    samples = measuring.evaluation.samples
    return f"accuracy/mean@{samples}" if samples else "accuracy/greedy"


def _title(stage: StageConfig, config: Config) -> str:
    """What is said of a run when it begins."""
    return stage.title or f"{stage.name}: {config.algorithm.summary}"


def _train(config: Config, progress: bool | None) -> RunResult:
    result = train(config, progress=progress)
    if result.interrupted:
        raise KeyboardInterrupt(f"its step {result.steps} is saved")
    return result


def _measure(
    compared: CompareConfig, stage: StageConfig, seed: int, progress: bool | None
) -> Measured:
    config = compared.run_config(stage, seed)
    name = algorithm_name(config.algorithm)
    if config.training.log_every != 1:
        raise ValueError(
            f"{stage.name}: training.log_every={config.training.log_every} must be 1, so that "
            "samples can be counted"
        )
    result = _train(config, progress)
    rows = read_metrics(result.run_dir)
    training = [row for row in rows if row["split"] == "train"]
    measuring = compared.measuring_config(seed)
    curve = (
        _online_curve(rows) if config.is_online else _offline_curve(measuring, result.run_dir, rows)
    )
    groups = sum(row.get("data/groups_generated", 0.0) for row in training)
    if not curve:
        raise TrainingError(f"{stage.name}: the run was never measured on held-out prompts")
    return Measured(
        name=stage.name,
        algorithm=name,
        seed=seed,
        curve=curve,
        seconds=rows[-1]["time/elapsed"],
        compiling=costs(rows)[-1].compiling if knows_compiling(rows) else float("nan"),
        bytes=run_bytes(config),
        samples=int(groups * config.algorithm.sampling.group_size) if config.is_online else 0,
        entropy=training[-1].get("policy/entropy", float("nan")),
    )


def _online_curve(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Evaluations made while training, at what was spent until then."""
    return [
        _point(row, row["step"], cost)
        for row, cost in zip(rows, costs(rows), strict=True)
        if row["split"] == "eval"
    ]


def _offline_curve(
    measuring: MeasureConfig, run_dir: pathlib.Path, rows: list[dict[str, Any]]
) -> list[dict[str, float]]:
    """The start and the checkpoints that the run kept, measured now."""
    with Checkpointer(run_dir / "checkpoints") as checkpointer:
        steps = checkpointer.all_steps()
    _log.info("measuring the start and %d checkpoints on held-out prompts", len(steps))
    spent = {
        row["step"]: cost
        for row, cost in zip(rows, costs(rows), strict=True)
        if row["split"] == "train"
    }
    curve = [_point(evaluate_folder(measuring), 0, Cost(0.0, 0.0, 0.0, 0.0))]
    for step, metrics in zip(
        steps, evaluate_checkpoints(measuring, run_dir, list(steps)), strict=True
    ):
        curve.append(_point(metrics, step, spent[step]))
    return curve


def _point(metrics: dict[str, Any], step: float, cost: Cost) -> dict[str, float]:
    values = {
        name: value
        for name, value in metrics.items()
        if name.startswith(("accuracy/", "rewards/", "length/"))
    }
    return {"step": float(step), "seconds": cost.seconds, "tokens": cost.tokens, **values}


def write(found: Comparison, *, reach: float) -> None:
    """compare.json (everything), compare.md (the table) and compare.png (learning curves)."""
    runs = [run._asdict() for run in found.runs]
    document = {
        "metric": found.metric,
        "target": found.target,
        "seconds": found.seconds,
        "best": found.best,
        "budgets": found.budgets._asdict(),
        "paired": found.paired._asdict(),
        "runs": runs,
    }
    text = json.dumps(_finite(document), indent=1)
    (found.folder / "compare.json").write_text(text, encoding="utf-8")
    (found.folder / "compare.md").write_text(as_markdown(found), encoding="utf-8")
    curves: dict[str, list[Any]] = {}
    for run in found.runs:
        points = [(point["step"], point["seconds"], point[found.metric]) for point in run.curve]
        curves.setdefault(run.name, []).append(points)
    plot_curves(
        curves,
        found.folder / "compare.png",
        metric=found.metric,
        level=found.target,
        reach=reach,
        clock="seconds of training, without start, compilation and evaluations",
    )


def as_markdown(found: Comparison) -> str:
    """The tables, each below a sentence that says what it holds; the best row is bold."""
    first = Table(found.columns, found.rows)
    parts = [
        f"Held-out {found.metric.removeprefix('accuracy/')} and what it took. Mean and standard "
        f"deviation over seeds; the best row is bold.\n\n{_rows(first, found.best)}",
        f"{AT_BUDGETS}\n\n{_rows(found.budgets, found.best)}",
    ]
    if found.paired.rows:
        parts.append(f"{PAIRED}\n\n{_rows(found.paired, found.best)}")
    return "\n\n".join(parts) + "\n"


def _rows(shown: Table, best: str) -> str:
    """A table of Markdown."""
    bold = [[f"**{cell}**" for cell in row] if row[0] == best else row for row in shown.rows]
    lines = [shown.columns, ["---"] * len(shown.columns), *bold]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _finite(value: Any) -> Any:
    """NaN as null: JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
