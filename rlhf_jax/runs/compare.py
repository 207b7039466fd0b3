"""`compare(config)`: several algorithms from one starting model, measured on the same held-out
prompts."""

import json
import logging
import pathlib
import time
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.algorithms import algorithm_name
from rlhf_jax.config import CompareConfig, Config, MeasureConfig, StageConfig
from rlhf_jax.errors import TrainingError
from rlhf_jax.io import Checkpointer, plot_curves, read_metrics
from rlhf_jax.io.interrupt import ending_in_order
from rlhf_jax.runs.compilation import keep_programs
from rlhf_jax.runs.evaluate import evaluate_checkpoints, evaluate_folder
from rlhf_jax.runs.footprint import run_bytes
from rlhf_jax.runs.story import Story
from rlhf_jax.runs.train import RunResult, train

_log = logging.getLogger(__name__)
COLUMNS = {
    "before": "accuracy before",
    "after": "after",
    "greedy_before": "greedy before",
    "greedy_after": "after",
    "steps_to_reach": "steps to {reach:.0%} of best",
    "seconds_to_reach": "seconds to it",
    "steps": "steps",
    "seconds": "seconds",
    "bytes": "MB held",
    "samples": "generated samples",
    "entropy": "final entropy",
}
"""Figures of a run -> headings of the table."""
DIGITS = {"steps": 0, "samples": 0, "steps_to_reach": 0}
DIGITS |= {"seconds": 1, "seconds_to_reach": 1, "bytes": 1}
"""Decimal places of the figures in the table; 3 of the others."""


class Measured(NamedTuple):
    """One run of the comparison."""

    name: str
    algorithm: str
    seed: int
    curve: list[dict[str, float]]
    """Held-out metrics at every evaluation, with `step` and `seconds` (of training; evaluations do
    not count)."""
    seconds: float
    """Of the whole run: start, compilation, training and evaluations."""
    bytes: int
    """Parameters, optimizer state and every further model that is held while training."""
    samples: int
    """Completions generated for training."""
    entropy: float
    """Of the policy at the last step, nats per token; NaN where the algorithm does not report
    it."""


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
    _log.info(
        "start: held-out %s %.3f, accuracy/greedy %.3f",
        metric,
        before[metric],
        before.get("accuracy/greedy", float("nan")),
    )
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
    found = Comparison(metric, target, runs, columns, rows, seconds, folder)
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
        bytes=run_bytes(config),
        samples=int(groups * config.algorithm.sampling.group_size) if config.is_online else 0,
        entropy=training[-1].get("policy/entropy", float("nan")),
    )


def _online_curve(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Evaluations made while training, at the training time that they came after."""
    curve = []
    spent = 0.0
    for row in rows:
        if row["split"] == "eval":
            spent += row.get("time/evaluate", 0.0)
            curve.append(_point(row, row["step"], row["time/elapsed"] - spent))
    return curve


def _offline_curve(
    measuring: MeasureConfig, run_dir: pathlib.Path, rows: list[dict[str, Any]]
) -> list[dict[str, float]]:
    """The start and the checkpoints that the run kept, measured now."""
    with Checkpointer(run_dir / "checkpoints") as checkpointer:
        steps = checkpointer.all_steps()
    elapsed = {row["step"]: row["time/elapsed"] for row in rows if row["split"] == "train"}
    curve = [_point(evaluate_folder(measuring), 0, 0.0)]
    for step, metrics in zip(
        steps, evaluate_checkpoints(measuring, run_dir, list(steps)), strict=True
    ):
        curve.append(_point(metrics, step, elapsed[step]))
    return curve


def _point(metrics: dict[str, Any], step: float, seconds: float) -> dict[str, float]:
    values = {
        name: value
        for name, value in metrics.items()
        if name.startswith(("accuracy/", "rewards/", "length/"))
    }
    return {"step": float(step), "seconds": seconds, **values}


def figures(run: Measured, metric: str, target: float) -> dict[str, float]:
    """The columns of `COLUMNS` of one run; NaN where the target was not reached."""
    first = run.curve[0]
    last = run.curve[-1]
    reached = next((point for point in run.curve if point[metric] >= target), None)
    return {
        "before": first[metric],
        "after": last[metric],
        "greedy_before": first["accuracy/greedy"],
        "greedy_after": last["accuracy/greedy"],
        "steps_to_reach": float("nan") if reached is None else reached["step"],
        "seconds_to_reach": float("nan") if reached is None else reached["seconds"],
        "steps": last["step"],
        "seconds": run.seconds,
        "bytes": run.bytes / 1e6,
        "samples": float(run.samples),
        "entropy": run.entropy,
    }


def table(
    runs: list[Measured], metric: str, target: float, *, reach: float
) -> tuple[list[str], list[list[str]]]:
    """(headings, rows): a row per name, mean ± standard deviation over its seeds."""
    columns = ["run", "algorithm", *(heading.format(reach=reach) for heading in COLUMNS.values())]
    rows = []
    for name in dict.fromkeys(run.name for run in runs):
        seeds = [run for run in runs if run.name == name]
        found = [figures(run, metric, target) for run in seeds]
        rows.append(
            [
                name,
                seeds[0].algorithm,
                *(_spread([one[key] for one in found], key) for key in COLUMNS),
            ]
        )
    return columns, rows


def _spread(values: list[float], key: str) -> str:
    """Mean, with more than one seed ± unbiased standard deviation; "-" for what never happened, "2
    of 3" for sometimes."""
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return "-"
    digits = DIGITS.get(key, 3)
    text = f"{np.mean(known):,.{digits}f}"
    if len(known) > 1 and np.std(known) > 0:
        text += f" ± {np.std(known, ddof=1):,.{digits}f}"
    return text if len(known) == len(values) else f"{text} ({len(known)} of {len(values)})"


def write(found: Comparison, *, reach: float) -> None:
    """compare.json (everything), compare.md (the table) and compare.png (learning curves)."""
    runs = [run._asdict() for run in found.runs]
    document = {
        "metric": found.metric,
        "target": found.target,
        "seconds": found.seconds,
        "runs": runs,
    }
    text = json.dumps(_finite(document), indent=1)
    (found.folder / "compare.json").write_text(text, encoding="utf-8")
    lines = [found.columns, ["---"] * len(found.columns), *found.rows]
    markdown = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    (found.folder / "compare.md").write_text(markdown + "\n", encoding="utf-8")
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
    )


def _finite(value: Any) -> Any:
    """NaN as null: JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
