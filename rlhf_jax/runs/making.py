"""Makes the stages of a comparison: starts, preparations, draws, and runs with their curves."""

import logging
import pathlib
import time
from typing import Any

from rlhf_jax.algorithms import algorithm_name
from rlhf_jax.config import CompareConfig, Config, MeasureConfig, StageConfig
from rlhf_jax.config.errors import did_you_mean
from rlhf_jax.errors import TrainingError
from rlhf_jax.fields import plain
from rlhf_jax.io import Checkpointer, read_metrics
from rlhf_jax.loops.held_out import HeldOut
from rlhf_jax.models import abstract_params, local_folder, read_config
from rlhf_jax.runs.budgets import Measured
from rlhf_jax.runs.by_prompt import ByPrompt, means_by_prompt
from rlhf_jax.runs.clock import Cost, costs, knows_compiling
from rlhf_jax.runs.draws import best_of, draw
from rlhf_jax.runs.evaluate import answers_of_checkpoints, evaluate_folder
from rlhf_jax.runs.footprint import run_bytes, tree_bytes
from rlhf_jax.runs.kept import digest, kept
from rlhf_jax.runs.result import RunResult
from rlhf_jax.runs.share import taking
from rlhf_jax.runs.story import Story
from rlhf_jax.runs.train import train

_log = logging.getLogger(__name__)
HELD_OUT = "held_out.{seed}.json"
"""In the folder of a start: its answers to the held-out prompts of a seed, measured."""


class Making:
    """What was made of a comparison in this process, so that nothing is asked for twice."""

    def __init__(self, progress: bool | None, story: Story) -> None:
        """Nothing is made yet.

        Args:
          progress: as for `train`.
          story: told of every stage.
        """
        self.seconds: dict[str, float] = {}
        """Wall time by name of the stage."""
        self._progress = progress
        self._story = story
        self._tokens: dict[pathlib.Path, float] = {}
        self._broken: dict[pathlib.Path, str] = {}
        self._before: dict[int, dict[str, float]] = {}

    def start(self, config: CompareConfig, seed: int) -> dict[str, float]:
        """The held-out metrics of a seed's start, which is made where it is not there.

        Raises:
          ValueError: a metric is outside of `start.accept`, or is not measured.
          Taken: another process is at it.
        """
        if seed in self._before:
            return self._before[seed]
        # Whatever grades the answers must be there to measure them.
        asked = StageConfig(name="held-out")
        for stage in config.needed_by(asked, config.stages):
            self._make(config, stage, seed)
        found = measured_start(config, seed)
        check_accepted(config, seed, found)
        self._before[seed] = found
        return found

    def prepare(self, config: CompareConfig, stage: StageConfig, seed: int) -> float:
        """Makes what a run needs.

        Returns:
          Tokens that the draws among it have generated.
        """
        self.start(config, seed)
        needed = config.needed(stage)
        return sum(self._make(config, one, seed) for one in needed)

    def measure(
        self, config: CompareConfig, stage: StageConfig, seed: int, *, by_prompt: bool = True
    ) -> Measured:
        """Makes a compared run, and its curve.

        Args:
          config: the comparison.
          stage: the run.
          seed: of the run.
          by_prompt: whether to tell of the last answers what was reached on each prompt, for which
            an online run answers once more.
        """
        clock = time.perf_counter()
        several = f" (seed {seed})" if len(config.seeds) > 1 else ""
        with self._story.chapter(f"{stage.name}{several}", f"{_title(config, stage)}{several}"):
            if stage.best_of is None:
                found = self._measure(config, stage, seed, by_prompt)
            else:
                found = self._best(config, stage, seed)
        self._took(stage.name, clock)
        return found

    def _make(self, config: CompareConfig, stage: StageConfig, seed: int) -> float:
        """Makes a stage before the runs; tokens that it generated as a draw."""
        place = config.folder(stage, seed)
        if place in self._tokens:
            return self._tokens[place]
        if place in self._broken:
            raise TrainingError(self._broken[place])
        # A stage that all seeds share is made with the first, whichever seed asks for it.
        made_with = config.seeds[0] if config.is_shared(stage) else seed
        clock = time.perf_counter()
        several = "" if config.is_shared(stage) or len(config.seeds) == 1 else f" (seed {seed})"
        tokens = 0.0
        with (
            taking(config, stage, made_with),
            self._story.chapter(f"{stage.name}{several}", f"{_title(config, stage)}{several}"),
        ):
            try:
                if stage.draw is None:
                    _train(config.run_config(stage, made_with), self._progress)
                else:
                    tokens = float(draw(config, stage, made_with)["tokens"])
            except TrainingError as error:
                self._broken[place] = f"{stage.name}{several}: {error}"
                raise TrainingError(self._broken[place]) from error
        self._took(stage.name, clock)
        self._tokens[place] = tokens
        return tokens

    def _took(self, name: str, clock: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - clock

    def _best(self, config: CompareConfig, stage: StageConfig, seed: int) -> Measured:
        clock = time.perf_counter()
        before = self.start(config, seed)
        nothing = Cost(0.0, 0.0, 0.0, 0.0)
        metrics, by_prompt = best_of(config, stage, seed)
        section = config.measuring_config(seed).model
        path = section.path
        architecture = read_config(local_folder(path)) if path is not None else None
        if architecture is None:
            raise ValueError(f"{stage.name}: best_of needs a start or common.model.path")
        return Measured(
            name=stage.name,
            algorithm=f"best of {stage.best_of}",
            seed=seed,
            curve=[_point(before, 0, nothing), _point(metrics, 0, nothing)],
            seconds=time.perf_counter() - clock,
            compiling=float("nan"),
            bytes=tree_bytes(abstract_params(architecture, None, section.dtype)),
            samples=0,
            entropy=float("nan"),
            by_prompt=by_prompt,
        )

    def _measure(
        self, compared: CompareConfig, stage: StageConfig, seed: int, by_prompt: bool
    ) -> Measured:
        config = compared.run_config(stage, seed)
        name = algorithm_name(config.algorithm)
        if config.training.log_every != 1:
            raise ValueError(
                f"{stage.name}: training.log_every={config.training.log_every} must be 1, so that "
                "samples can be counted"
            )
        result = _train(config, self._progress)
        rows = read_metrics(result.run_dir)
        training = [row for row in rows if row["split"] == "train"]
        measuring = compared.measuring_config(seed)
        last = None
        if config.is_online:
            curve = _online_curve(rows)
            if by_prompt:
                # Of the last measurement the run has kept the metrics alone.
                last = answers_of_checkpoints(measuring, result.run_dir, [None])[0]
        else:
            before = self.start(compared, seed)
            curve, last = _offline_curve(measuring, result.run_dir, rows, before)
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
            by_prompt={} if last is None else _by_prompt(measuring, last),
        )


def accuracy_metric(measuring: MeasureConfig) -> str:
    """The share of right samples, or of right greedy answers when none are sampled."""
    samples = measuring.evaluation.samples
    return f"accuracy/mean@{samples}" if samples else "accuracy/greedy"


def measured_start(config: CompareConfig, seed: int) -> dict[str, float]:
    """Held-out metrics of a start, measured once for all processes and sessions.

    Args:
      config: the comparison.
      seed: of the start, which is made.
    """
    measuring = config.measuring_config(seed)
    if config.start is None:
        return evaluate_folder(measuring)
    start = config.start

    def measure() -> dict[str, float]:
        with taking(config, start, seed):
            return evaluate_folder(measuring)

    path = config.folder(start, seed) / HELD_OUT.format(seed=seed)
    return kept(path, digest(plain(measuring)), measure)


def check_measured(key: str, metric: str, found: dict[str, float]) -> None:
    """Refuses a metric that no evaluation has.

    Args:
      key: that names the metric.
      metric: its name.
      found: held-out metrics of a start.

    Raises:
      ValueError: with those that there are.
    """
    if metric not in found:
        known = sorted(found)
        raise ValueError(
            f"{key}: {metric} is not measured; measured are {', '.join(known)}"
            f"{did_you_mean(metric, known)}"
        )


def check_accepted(config: CompareConfig, seed: int, found: dict[str, float]) -> None:
    """Refuses a start outside of its band.

    Raises:
      ValueError: with the value and the band.
    """
    start = config.start
    for metric, (low, high) in {} if start is None else start.accept.items():
        check_measured("start.accept", metric, found)
        if not low <= found[metric] <= high:
            raise ValueError(
                f"the start of seed {seed} has {metric}={found[metric]:.4g}, outside of "
                f"start.accept [{low:g}, {high:g}]: change its training, or the band"
            )


def _title(config: CompareConfig, stage: StageConfig) -> str:
    """What is said of a stage when it begins."""
    if stage.title:
        return stage.title
    if stage.draw is not None:
        return f"{stage.name}: samples of the start"
    if stage.best_of is not None:
        return f"{stage.name}: the best of {stage.best_of} samples of the start"
    made = config.run_config(stage, config.seeds[0])
    return f"{stage.name}: {made.algorithm.summary}"


def _train(config: Config, progress: bool | None) -> RunResult:
    result = train(config, progress=progress)
    if result.interrupted:
        raise KeyboardInterrupt(f"its step {result.steps} is saved")
    if result.asked_to_stop:
        raise KeyboardInterrupt("it was complete")
    return result


def _online_curve(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Evaluations made while training, at what was spent until then."""
    return [
        _point(row, row["step"], cost)
        for row, cost in zip(rows, costs(rows), strict=True)
        if row["split"] == "eval"
    ]


def _offline_curve(
    measuring: MeasureConfig,
    run_dir: pathlib.Path,
    rows: list[dict[str, Any]],
    before: dict[str, float],
) -> tuple[list[dict[str, float]], HeldOut]:
    """The start and the checkpoints that the run kept, measured now; and the answers of the
    last."""
    with Checkpointer(run_dir / "checkpoints") as checkpointer:
        steps = checkpointer.all_steps()
    _log.info("measuring %d checkpoints on held-out prompts", len(steps))
    spent = {
        row["step"]: cost
        for row, cost in zip(rows, costs(rows), strict=True)
        if row["split"] == "train"
    }
    curve = [_point(before, 0, Cost(0.0, 0.0, 0.0, 0.0))]
    answers = answers_of_checkpoints(measuring, run_dir, list(steps))
    for step, found in zip(steps, answers, strict=True):
        curve.append(_point(found.metrics, step, spent[step]))
    return curve, answers[-1]


def _by_prompt(measuring: MeasureConfig, found: HeldOut) -> ByPrompt:
    names = [reward.label for reward in measuring.rewards]
    samples = measuring.evaluation.samples
    return means_by_prompt(
        found.samples[-1], found.right[-1], names, samples=samples, size=samples or 1
    )


def _point(metrics: dict[str, Any], step: float, cost: Cost) -> dict[str, float]:
    values = {
        name: value
        for name, value in metrics.items()
        if name.startswith(("accuracy/", "rewards/", "length/", "answer/", "kl/"))
    }
    return {"step": float(step), "seconds": cost.seconds, "tokens": cost.tokens, **values}
