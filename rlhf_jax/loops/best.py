"""Evaluations and the best checkpoint: which metric decides, whether it is there, what is told
about it, and when a run ends because evaluations no longer improve."""

import logging
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from rlhf_jax.algorithms.directions import better
from rlhf_jax.config import Config, ConfigError, EarlyStoppingConfig, TrainingConfig
from rlhf_jax.config.errors import did_you_mean
from rlhf_jax.io import Checkpointer, RunFolder, read_metrics
from rlhf_jax.sharding.processes import from_leader

_log = logging.getLogger(__name__)
GRADED = 0.9
"""Share of the held-out completions that must be graded for a checkpoint to be ranked."""
_UNGRADED_SHARE = 1 - GRADED + 1e-9
"""Share that could not be graded, for all that rounds to the limit; from here on none is ranked."""


class Evaluations:
    """Keeps account of a run's evaluations: which were made, what they are worth, which checkpoint
    is best so far.

    Args:
      config: the run.
      folder: whose metrics say what earlier sessions evaluated.
      checkpointer: which is told the metric that decides.
      total_steps: of the run.
      upto: the step that the run goes on from: what is later in the metrics was lost, and is made
        again; None: nothing is.
      planned: the last step of the earlier sessions, which is evaluated although the run is longer
        now; None: none.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        checkpointer: Checkpointer,
        *,
        total_steps: int,
        upto: int | None = None,
        planned: int | None = None,
    ) -> None:
        self._config = config
        self._checkpointer = checkpointer
        self._metric = config.checkpoint.best_metric
        self._rule = config.training.early_stopping
        self._last = (0, total_steps, planned)
        self._every = config.training.eval_every
        path = folder.path / "metrics.jsonl"
        # One reads for all: another one might see the file a moment before or after.
        rows = from_leader("evaluations", lambda: _evaluations(path, upto))
        self._made = {int(row["step"]): row for row in rows}
        self._best: int | None = None
        self._best_value: float | None = None

    def check(self, names: Iterable[str] | None) -> None:
        """Refuses a `checkpoint.best_metric` that no evaluation produces; says so when nothing is
        evaluated.

        Args:
          names: what an evaluation can produce; None: known from the last one made, or not yet.

        Raises:
          ConfigError: one line with the nearest match.
        """
        if not self._config.data.has_eval and self._every > 0:
            given = (
                ""
                if self._every == TrainingConfig.eval_every
                else f"; training.eval_every={self._every} has no effect"
            )
            _log.log(
                logging.WARNING if given else logging.INFO,
                "nothing is evaluated: no held-out data (data.eval_path, eval_split, eval_fraction "
                "or eval_size)%s",
                given,
            )
        if names is None and self._made:
            names = [
                name
                for name in self._made[max(self._made)]
                if name not in ("step", "split", "time/elapsed")
            ]
        if self._metric is not None:
            self._check("checkpoint.best_metric", self._metric, names)
        if self._rule is None:
            return
        key = "training.early_stopping.metric"
        if self._watched is None:
            raise ConfigError(
                f"{key} and checkpoint.best_metric are null: name the metric that must improve, "
                "for example loss/total"
            )
        self._check(key, self._watched, names)
        if self._every == 0:
            raise ConfigError(
                "training.early_stopping needs evaluations: set training.eval_every to at least 1"
            )

    @property
    def _watched(self) -> str | None:
        """The metric of early stopping."""
        return None if self._rule is None else self._rule.metric or self._metric

    def _check(self, key: str, metric: str, names: Iterable[str] | None) -> None:
        """Refuses a metric that no evaluation of this run has."""
        if not self._config.data.has_eval:
            raise ConfigError(
                f"{key}={metric!r} needs held-out data: give "
                "data.eval_path, eval_split, eval_fraction "
                "or eval_size, or set it to null"
            )
        names = None if names is None else sorted(names)
        if names is not None and metric not in names:
            raise ConfigError(
                f"{key}={metric!r} is not measured in this run's "
                "evaluations, which give "
                f"{', '.join(names)}{did_you_mean(metric, names)}"
            )

    def why_stop(self) -> str | None:
        """Why training is to end before its last step, in words; None: it is not.

        All processes have the same evaluations, and so decide the same.
        """
        if self._rule is None or self._watched is None:
            return None
        mode = self._rule.mode
        if mode is None and self._watched == self._metric:
            mode = self._config.checkpoint.best_mode
        largest = (mode or better(self._watched)) == "max"
        return why_stop(self._made, self._rule, metric=self._watched, largest=largest)

    def is_due(self, step: int) -> bool:
        """Whether the configuration asks for an evaluation after this step (0: before the
        first)."""
        return step in self._last or (self._every > 0 and step % self._every == 0)

    @property
    def steps(self) -> frozenset[int]:
        """Those evaluated, in this session or an earlier one."""
        return frozenset(self._made)

    def is_made(self, step: int) -> bool:
        """Whether the step was evaluated."""
        return step in self._made

    def resumed(self) -> None:
        """What earlier sessions found, when the run goes on from a checkpoint.

        A session may have ended between an evaluation and telling its result, or have ranked by
        another metric: then it is told now.
        """
        if self._metric is None:
            return
        self._best = self._checkpointer.best_step()
        self._best_value = None if self._best is None else self._checkpointer.rated(self._best)
        known = [saved for saved in self._checkpointer.all_steps() if self.is_made(saved)]
        for saved in known:  # of a run that names another metric than before, none is ranked yet
            if self._checkpointer.rated(saved) is None:
                self._rate(saved, self._made[saved], delete=saved == known[-1])

    def made(self, step: int, metrics: dict[str, float], *, saved: bool) -> None:
        """Takes the result of an evaluation.

        Args:
          step: training steps made.
          metrics: what it found; empty when it was given up.
          saved: there is a checkpoint of this step.
        """
        if not metrics:
            return
        self._made[step] = metrics
        if saved and self._metric is not None:
            self._rate(step, metrics)

    def saved(self, step: int) -> None:
        """Takes note of a checkpoint; the evaluation may come before or after it."""
        if self._metric is None:
            return
        if self.is_made(step):
            self._rate(step, self._made[step])
        # where one is due, it is told after it
        elif self._best is not None and not self.is_due(step):
            _log.info("step %d saved; %s", step, self._told())

    def finish(self) -> None:
        """Says which checkpoint was best and how to get it."""
        if self._metric is None:
            return
        best = self._checkpointer.best_step()
        if best is None:
            _log.warning(
                "no checkpoint is best: none with checkpoint.best_metric=%s was ranked",
                self._metric,
            )
            return
        value = self._checkpointer.rated(best)
        run_dir = self._config.run_dir
        _log.info(
            "best checkpoint%s: step %d, %s=%.6g; to get it: rlhf-jax export %s FOLDER --best "
            "(export/ holds the last one)",
            " of those kept" if self._config.checkpoint.keep_best == 0 else "",
            best,
            self._metric,
            value,
            run_dir,
        )
        if self._config.checkpoint.keep_best == 0 and self._best_evaluation() not in (None, best):
            _log.warning(
                "%s, whose checkpoint is gone or never was: checkpoint.keep_best=1 keeps such a "
                "one",
                self._told(),
            )

    def _rate(self, step: int, metrics: dict[str, float], *, delete: bool = True) -> None:
        assert self._metric is not None
        ungraded = self._ungraded(metrics)
        value = self._value(metrics)
        if ungraded >= _UNGRADED_SHARE:
            _log.warning(
                "step %d is not ranked by %s: %.0f %% of its held-out completions could not be "
                "graded (at most %.0f %%)",
                step,
                self._metric,
                100 * ungraded,
                100 * (1 - GRADED),
            )
            return
        if value is None:
            _log.warning("step %d is not ranked: its evaluation has no %s", step, self._metric)
            return
        self._checkpointer.rate(step, {self._metric: value}, delete=delete)
        if self._best_value is None or self._is_better(value):
            self._best = step
            self._best_value = value
        _log.info("step %d saved, %s=%.6g; %s", step, self._metric, value, self._told())

    def _is_better(self, value: float) -> bool:
        """Of two equal ones the newer is better, as for the checkpointer."""
        assert self._best_value is not None
        return (
            value >= self._best_value
            if self._config.checkpoint.mode == "max"
            else value <= self._best_value
        )

    def _told(self) -> str:
        """The best step so far. Without `keep_best` no checkpoint is promised: it is that of the
        best evaluation."""
        best = self._best
        value = self._best_value
        if self._config.checkpoint.keep_best == 0 and (best := self._best_evaluation()) is not None:
            value = self._made[best][self._metric or ""]
            return f"best evaluation so far: step {best}, {self._metric}={value:.6g}"
        return f"best so far: step {best}, {self._metric}={value:.6g}"

    def _best_evaluation(self) -> int | None:
        """Of all evaluations that can be ranked, those of steps without a checkpoint included; None
        when there is none."""
        graded = {
            step: metrics
            for step, metrics in self._made.items()
            if self._ungraded(metrics) < _UNGRADED_SHARE
        }
        known = {
            step: value
            for step, metrics in graded.items()
            if (value := self._value(metrics)) is not None
        }
        sign = 1 if self._config.checkpoint.mode == "max" else -1
        return max(known, key=lambda step: (sign * known[step], step), default=None)

    def _ungraded(self, metrics: dict[str, float]) -> float:
        """Share of the completions behind the metric that could not be graded."""
        of_samples = "sampled" in (self._metric or "") or "@" in (self._metric or "")
        return metrics.get("rewards/ungraded_sampled" if of_samples else "rewards/ungraded", 0.0)

    def _value(self, metrics: dict[str, float]) -> float | None:
        """The metric that decides; None where there is none, or no number."""
        value = metrics.get(self._metric or "")
        return None if value is None or value != value else value


def _evaluations(path: pathlib.Path, upto: int | None) -> list[dict[str, Any]]:
    """Rows of evaluations up to a step, None: of all; none where nothing is written yet."""
    rows = read_metrics(path) if path.exists() else []
    return [row for row in rows if row["split"] == "eval" and (upto is None or row["step"] <= upto)]


def why_stop(
    evaluations: Mapping[int, Mapping[str, float]],
    rule: EarlyStoppingConfig,
    *,
    metric: str,
    largest: bool,
) -> str | None:
    """Whether the last evaluations say that a run is to end.

    A function of what was evaluated, in earlier sessions too, so that a run that goes on decides
    what a whole one would.

    Args:
      evaluations: step -> metrics, the one before the first step included.
      rule: how long to wait.
      metric: that must improve; where an evaluation has no number for it, it has not.
      largest: large values are good.

    Returns:
      The reason in words, or None.
    """
    best: tuple[int, float] | None = None
    waited = 0
    for step in sorted(evaluations):
        value = evaluations[step].get(metric, math.nan)
        gain = math.inf if best is None else (value - best[1]) * (1 if largest else -1)
        if not math.isnan(value) and gain > rule.min_delta:
            best = (step, value)
            waited = 0
        else:
            waited += 1
    if waited < rule.patience:
        return None
    so_far = "it was never measured" if best is None else f"best {best[1]:.6g} at step {best[0]}"
    margin = f" by more than {rule.min_delta:g}" if rule.min_delta else ""
    return (
        f"{metric} has not improved{margin} in {waited} evaluations (training.early_stopping."
        f"patience={rule.patience}); {so_far}"
    )
