"""`compare(config)`: several algorithms from one starting model, measured on the same held-out
prompts."""

import logging
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from rlhf_jax.cloud import is_address
from rlhf_jax.config import CompareConfig, StageConfig
from rlhf_jax.errors import DivergedError, TrainingError
from rlhf_jax.io.disk import write_whole
from rlhf_jax.io.interrupt import ending_in_order
from rlhf_jax.io.words import held_out_line
from rlhf_jax.runs.budgets import (
    Measured,
    best_name,
    budget_table,
    paired_table,
    table,
    to_judge_by,
)
from rlhf_jax.runs.cells import NOT_TUNED, measured_of, read_cell, write_cell, write_results
from rlhf_jax.runs.compared import Comparison, write
from rlhf_jax.runs.compilation import keep_programs
from rlhf_jax.runs.ended import ended_table, tuning_table
from rlhf_jax.runs.making import Making, accuracy_metric, check_measured
from rlhf_jax.runs.share import share, taking
from rlhf_jax.runs.story import Story
from rlhf_jax.runs.tried import try_own
from rlhf_jax.runs.tuning import tune, tuned_before

_log = logging.getLogger(__name__)


class Cell(NamedTuple):
    """One run of one seed."""

    run: str
    seed: int


class _Failed:
    """What cannot go on in a comparison. It costs the other runs nothing; the comparison ends with
    an error once they are made."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        """By what failed. Text alone: an error holds the arrays of the run that raised it."""
        self.runs: set[str] = set()
        """Names of the runs that are not whole."""

    def add(self, run: str, what: str, error: TrainingError) -> None:
        """Keeps the reason, and says it.

        Args:
          run: its name.
          what: of it.
          error: why.
        """
        self.runs.add(run)
        self.reasons[what] = str(error)
        _log.warning("%s cannot go on: %s", what, error)

    def told(self) -> str:
        """All of them, and the first reason."""
        (first, *_) = self.reasons.values()
        return f"cannot go on: {', '.join(self.reasons)}. The first ended with: {first}"


def compare(
    config: CompareConfig, *, progress: bool | None = None, cell: tuple[str, int] | None = None
) -> Comparison:
    """Makes the start and the preparations, trains every run for every seed, and writes table and
    picture.

    Every run goes through `train`, so that one that was interrupted goes on, and a finished one is
    not made again. Several processes with the same call share the work: each makes what none of the
    others is at, and all end with the whole table.

    Args:
      config: from `load_compare` or `make_compare`.
      progress: as for `train`.
      cell: (name of a run, seed): only this one is made, and what it needs.

    Returns:
      A `Comparison`; its folder holds results.json, compare.json, compare.md and compare.png.

    Raises:
      ValueError: a configuration cannot be used, the held-out prompts have no accuracy, or a start
        is outside of `start.accept`.
      TrainingError: some runs cannot go on; raised when all others are made, and their tables
        written.
      KeyboardInterrupt: a signal ended a run; the same call goes on from there.
    """
    with keep_programs(_cache(config)), ending_in_order(lambda: "finished runs are kept"):
        return _compare(config, progress, None if cell is None else Cell(*cell))


def _cache(config: CompareConfig) -> str | None:
    """Where the runs keep compiled programs."""
    return config.measuring_config(config.seeds[0]).training.compilation_cache


def _compare(config: CompareConfig, progress: bool | None, cell: Cell | None) -> Comparison:
    """Everything, stage by stage."""
    if is_address(config.run_dir):
        raise ValueError(
            f"run_dir={config.run_dir} is in a bucket: comparisons are written to a folder of this "
            "machine (rlhf-jax train takes buckets)"
        )
    stages = config.runs if cell is None else (config.run(cell.run),)
    seeds = config.seeds if cell is None else (cell.seed,)
    tuning_of = config.tuning
    tuned_so_far, found_before = _tuned_before(config)
    # All of them are looked at before the first is made, and before the folder's file is written,
    # which the cells' commands name.
    missing = [
        (stage, seed)
        for stage in stages
        for seed in seeds
        if read_cell(tuned_so_far, tuned_so_far.run(stage.name), seed) is None
    ]
    folder = pathlib.Path(config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "compare.yaml", config.to_yaml())
    for stage, seed in missing:
        if stage.is_trained:
            try_own(config.run_config(stage, seed))
    names = () if tuning_of is None else tuning_of.runs
    tuned = [stage for stage in stages if stage.name in names]
    untried = [stage for stage in tuned if stage.name not in found_before]
    pairs = [
        (stage, seed)
        for stage in untried
        for seed in (() if tuning_of is None else tuning_of.seeds)
    ]
    making = Making(progress, Story(_chapters(config, missing, pairs)))
    metric = accuracy_metric(config.measuring_config(seeds[0]))

    def begin(seed: int) -> None:
        before = making.start(config, seed)
        if metric not in before:
            raise ValueError(
                f"prompts.rewards: no reward says right or wrong ({metric} is missing); put such a "
                "one first"
            )
        if tuning_of is not None and tuning_of.metric is not None:
            check_measured("tuning.metric", tuning_of.metric, before)
        _log.info("all of seed %d go on from here, held-out: %s", seed, held_out_line(before))

    # Starts first, all of them: one that is refused must not cost the runs of another seed.
    share(list(dict.fromkeys(seed for _, seed in (*missing, *pairs))), begin)

    def reached(whole: CompareConfig, stage: StageConfig, seed: int) -> dict[str, float]:
        making.prepare(whole, stage, seed)
        try:
            return making.measure(whole, stage, seed, by_prompt=False).curve[-1]
        except DivergedError as error:
            _log.warning("%s rules its value out: %s", stage.name, error)
            return {}

    failed = _Failed()
    for stage in tuned:
        try:
            chosen = tune(config, stage, reached, metric=metric)
        except TrainingError as error:
            failed.add(stage.name, f"tuning {stage.name}", error)
        else:
            _log.info("%s: %s=%s is taken", stage.name, chosen["asked"]["key"], chosen["value"])
    whole, tuning = _tuned_before(config)
    pieces = [
        (whole.run(stage.name), seed)
        for stage in stages
        for seed in seeds
        if stage.name not in failed.runs
    ]

    def made(piece: tuple[StageConfig, int]) -> Measured | None:
        stage, seed = piece
        try:
            return _cell(making, whole, stage, seed, tuning)
        except TrainingError as error:
            failed.add(stage.name, f"{stage.name} of seed {seed}", error)
            return None

    runs = share(pieces, made)
    write_results(whole, metric, tuning)
    complete = [run for run in runs if run is not None and run.name not in failed.runs]
    if failed.reasons and not complete:
        raise TrainingError(failed.told())
    found = _found(whole, complete, metric, tuning, making.seconds)
    if failed.reasons:
        raise TrainingError(
            f"{failed.told()}; the runs that lack no seed are in {found.folder / 'compare.md'}"
        )
    return found


def _tuned_before(config: CompareConfig) -> tuple[CompareConfig, dict[str, Any]]:
    """The comparison with all values that are chosen by now, and what was found of each run."""
    whole = config
    tuning = {}
    for name in () if config.tuning is None else config.tuning.runs:
        found = tuned_before(config, config.run(name))
        if found is not None:
            tuning[name] = found
            whole = whole.tuned(name, found["value"])
    return whole, tuning


def _cell(
    making: Making, config: CompareConfig, stage: StageConfig, seed: int, tuning: dict[str, Any]
) -> Measured:
    """One run of one seed: what is there, or made now."""
    kept = read_cell(config, stage, seed)
    if kept is not None:
        return measured_of(kept)
    with taking(config, stage, seed):
        kept = read_cell(config, stage, seed)
        if kept is None:  # no other process has made it in the meantime
            return _made(making, config, stage, seed, tuning)
    return measured_of(kept)


def _made(
    making: Making, config: CompareConfig, stage: StageConfig, seed: int, tuning: dict[str, Any]
) -> Measured:
    """One run of one seed, made and kept."""
    drawn = making.prepare(config, stage, seed)
    measured = making.measure(config, stage, seed)
    points = [
        point | {"tokens": point["tokens"] + drawn} if point["step"] > 0 else point
        for point in measured.curve
    ]
    measured = measured._replace(curve=points)
    rate = config.run_config(stage, seed).optimizer.learning_rate if stage.is_trained else None
    value = tuning[stage.name]["value"] if stage.name in tuning else NOT_TUNED
    write_cell(config, stage, measured, drawn=drawn, learning_rate=rate, tuned=value)
    return measured


Pairs = Sequence[tuple[StageConfig, int]]


def _chapters(config: CompareConfig, missing: Pairs, tuned: Pairs) -> int:
    """How many stages are told of.

    Args:
      config: the comparison.
      missing: runs that are not there, with their seeds.
      tuned: runs that are to be tuned, with the seeds that they are tuned on.
    """
    folders = {
        config.folder(one, seed)
        for stage, seed in (*missing, *tuned)
        for one in config.needed(stage)
    }
    values = 0 if config.tuning is None else len(config.tuning.values)
    return len(folders) + len(missing) + len(tuned) * values


def _found(
    config: CompareConfig,
    runs: list[Measured],
    metric: str,
    tuning: dict[str, Any],
    seconds: dict[str, float],
) -> Comparison:
    """The tables of all runs, written too."""
    for point in (point for run in runs for point in run.curve):
        for name in (metric, "accuracy/greedy"):  # nothing of that evaluation could be judged
            point.setdefault(name, float("nan"))
    reached = [point[metric] for run in to_judge_by(runs) for point in run.curve]
    best = max((value for value in reached if value == value), default=None)
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
        ended=ended_table(runs, metric, tuning),
        tuning=tuning_table(tuning),
        budgets=budget_table(runs, metric),
        paired=paired_table(runs, metric, leading),
        seconds=seconds,
        folder=pathlib.Path(config.run_dir),
    )
    write(found, reach=config.reach)
    return found
