"""What a loop tells the world, and when: rows of metrics, evaluations, checkpoints.

Both loops use it, so that the order of things (a row, then the checkpoint, then the evaluation) is
written down once.
"""

import collections
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from rlhf_jax.config import TrainingConfig
from rlhf_jax.errors import DivergedError
from rlhf_jax.io import Checkpointer, RunFolder, averaged, diagnose
from rlhf_jax.io.diagnosis import HISTORY
from rlhf_jax.loops.best import Evaluations
from rlhf_jax.loops.groups import RunState
from rlhf_jax.sharding.processes import count, exchange, is_leader

_log = logging.getLogger(__name__)

Callback: TypeAlias = Callable[[int, Mapping[str, float]], Any]
"""(step, metrics of the step); True: the run ends here, as after its last step. Offline it hears of
a step when the next one is on its way."""


class Recorder:
    """Writes rows, evaluates and saves when each is due; knows whether updates keep failing.

    Attributes:
      wants_stop: a callback asked for the end of the run, or its evaluations no longer improve.
    """

    def __init__(
        self,
        training: TrainingConfig,
        folder: RunFolder,
        checkpointer: Checkpointer,
        evaluations: Evaluations,
        *,
        save: Callable[[RunState], None],
        evaluate: Callable[[RunState], Mapping[str, float]] | None,
        watch: Callable[[RunState], float | None],
        total_steps: int,
        updates_per_step: int = 1,
        resumed_at: int | None = None,
        callbacks: Sequence[Callback] = (),
        show: Callable[[int], None] = lambda step: None,
        export: Callable[[RunState], None] = lambda now: None,
        export_every: int | None = None,
        compiling: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Remembers where everything goes.

        Args:
          training: how often.
          folder: of the rows.
          checkpointer: of the states.
          evaluations: account of what was evaluated, and which checkpoint is best.
          save: hands a state to the checkpointer.
          evaluate: held-out metrics of a state; empty when a signal asked to stop meanwhile. None:
            there is nothing to evaluate on.
          watch: looks at every state; the share of the parameters that have moved, the one time
            that it finds out.
          total_steps: of the whole run.
          updates_per_step: optimizer steps in each.
          resumed_at: the run goes on from its own checkpoint of this step; None: it starts.
          callbacks: see every step's metrics.
          show: shows samples of what is trained on, at evaluations.
          export: writes the policy as a Hugging Face folder.
          export_every: steps between exports; None: none but that at the end of the run.
          compiling: seconds spent on compiling until now; it only grows.
        """
        self._training = training
        self._folder = folder
        self._checkpointer = checkpointer
        self._evaluations = evaluations
        self._save = save
        self._evaluate = evaluate
        self._watch = watch
        self._total_steps = total_steps
        self._updates = updates_per_step
        self._is_resumed = resumed_at is not None
        self._saved = resumed_at
        self._callbacks = tuple(callbacks)
        self._show = show
        self._export = export
        self._export_every = export_every
        self._waiting: list[tuple[int, Mapping[str, float]]] = []
        self._recent: collections.deque[Mapping[str, float]] = collections.deque(maxlen=HISTORY)
        self._moved: float | None = None
        self._told: set[str] = set()
        self._compiling = compiling
        self._compiled = 0.0
        self.wants_stop = False

    def started(self, now: RunState) -> None:
        """Before the first step: an evaluation of the start; of a resumed run only one that was due
        and is missing."""
        self._compiled = self._compiling()  # what was compiled to get here belongs to no row
        if self._is_resumed:
            self._evaluations.resumed()
            self._look_for_end(now.step)
            if not self._evaluations.is_due(now.step):
                return
        if not self._evaluations.is_made(now.step):
            self.evaluate(now)

    def check(self) -> None:
        """Notices a save that failed in the background.

        Raises:
          CheckpointError: it failed.
        """
        self._checkpointer.check()

    def stepped(self, now: RunState) -> None:
        """Looks at the state after a step; costs nothing unless something is to be looked at."""
        moved = self._watch(now)
        if moved is not None:
            self._moved = moved
            self._diagnose(now.step)

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Takes the metrics of a step: they are shown, and written every `training.log_every`
        steps, as means since the row before.

        Raises:
          DivergedError: too many updates in a row were skipped.
        """
        training = self._training
        in_a_row = int(values.get("update/skipped_in_a_row", 0))
        most = training.max_nonfinite * self._updates
        if values.get("update/skipped"):
            _log.warning(
                "step %d: the loss or a gradient is not finite; update skipped (%d in a row)",
                step,
                in_a_row,
            )
        self._waiting.append((step, values))
        self._recent.append(values)
        self._folder.show(step, values)
        if step % training.log_every == 0 or in_a_row > most:
            self._write_row()
        if in_a_row > most:
            several = f", {self._updates} updates a step" if self._updates > 1 else ""
            raise DivergedError(
                f"step {step}: the loss or a gradient was not finite {in_a_row} times in a row "
                f"(training.max_nonfinite={training.max_nonfinite}{several}); lower "
                "optimizer.learning_rate or look at the last rows of metrics.jsonl"
            )
        for callback in self._callbacks:
            if callback(step, values) is True:
                _log.info("step %d: a callback ends the run", step)
                self.wants_stop = True

    def is_due(self, step: int) -> bool:
        """Whether there is something to save, to export or to evaluate after this step."""
        return (
            self._is_save_step(step) or self._is_export_step(step) or self._evaluations.is_due(step)
        )

    def due(self, now: RunState) -> None:
        """Saves, exports and evaluates, whichever is due."""
        # Saved first, evaluated then: a signal during the evaluation finds the state on disk.
        if self._is_save_step(now.step):
            self.save(now)
        if self._is_export_step(now.step):
            self._export(now)
        if self._evaluations.is_due(now.step):
            self.evaluate(now)
            self._show(now.step)
            self._diagnose(now.step)

    def save(self, now: RunState) -> None:
        """Writes a checkpoint, behind the row of its step: what is resumed from it then lacks
        none, and a run's last step has one."""
        self._write_row()
        self._save(now)
        self._saved = now.step
        self._evaluations.saved(now.step)

    def save_first(self, now: RunState) -> None:
        """Saves before an error ends the run. A save that fails (the disk is full) must not take
        the place of that error."""
        try:
            self.save(now)
        except Exception as failed:
            reason = " ".join(str(failed).split())
            _log.warning("what was learnt since the last checkpoint is lost: %s", reason)

    def evaluate(self, now: RunState) -> None:
        """Held-out metrics; an evaluation that a signal ends is dropped, and made when the run goes
        on."""
        if self._evaluate is None:
            return
        began = time.perf_counter()
        self._folder.busy("evaluating on held-out data")
        try:
            metrics = dict(self._evaluate(now))
        finally:
            self._folder.busy(None)
        if not metrics:
            _log.info(
                "step %d: the evaluation was given up, as asked to stop; it is made when the run "
                "goes on",
                now.step,
            )
            return
        seconds = time.perf_counter() - began
        times = {"time/evaluate": seconds} | self._compile_time()
        self._folder.write(now.step, metrics | times, split="eval")
        self._evaluations.made(now.step, metrics, saved=self._saved == now.step)
        self._folder.publish()
        self._look_for_end(now.step)

    def _look_for_end(self, step: int) -> None:
        """Ends the run where its evaluations no longer improve."""
        reason = self._evaluations.why_stop()
        if reason is not None and not self.wants_stop and step < self._total_steps:
            _log.info("step %d: training ends early: %s", step, reason)
            self.wants_stop = True

    def ended(self, now: RunState, *, over: bool, stopped: bool) -> bool:
        """After the last step: what is not saved is saved, what is not evaluated is evaluated.

        Args:
          now: the last state.
          over: there is nothing left to do.
          stopped: a signal asked to stop.

        Returns:
          Whether the run was interrupted: the same command then goes on from here.
        """
        # A callback ends a run; only a signal interrupts it.
        over = over or self.wants_stop
        stopped = stopped and not self.wants_stop
        if self._saved != now.step:
            self.save(now)
        if over and not self._evaluations.is_made(now.step) and not stopped:
            self.evaluate(now)
        is_whole = self._evaluate is None or self._evaluations.is_made(now.step)
        return stopped and not (over and is_whole)

    def finish(self) -> None:
        """Says which checkpoint was best, once all are written."""
        self._evaluations.finish()

    def _write_row(self) -> None:
        """One row of the steps since the last one."""
        if not self._waiting:
            return
        step = self._waiting[-1][0]
        values = averaged([metrics for _, metrics in self._waiting]) | self._compile_time()
        self._waiting = []
        self._folder.write(step, {**values, **slowest(values)}, split="train")

    def _diagnose(self, step: int) -> None:
        """Says what keeps the run from learning, each kind once."""
        if not is_leader():
            return
        for found in diagnose(list(self._recent), moved=self._moved):
            if found.name not in self._told:
                self._told.add(found.name)
                _log.warning("step %d, diagnosis: %s", step, found)

    def _is_export_step(self, step: int) -> bool:
        return self._export_every is not None and step % self._export_every == 0

    def _compile_time(self) -> dict[str, float]:
        """Seconds of compiling since the row before; nothing where there were none."""
        before = self._compiled
        self._compiled = self._compiling()
        spent = self._compiled - before
        return {"time/compile": spent} if spent > 0 else {}

    def _is_save_step(self, step: int) -> bool:
        every = self._training.save_every
        return step == self._total_steps or (every > 0 and step % every == 0)


def slowest(values: Mapping[str, float]) -> dict[str, float]:
    """`time/NAME_max`, the longest time over all processes, so that one that holds up the others is
    seen; nothing where there is one.

    Args:
      values: metrics of a step, in this process.
    """
    if count() == 1:
        return {}
    own = {name: value for name, value in values.items() if name.startswith("time/")}
    seen = exchange("times", own)
    return {f"{name}_max": max(times.get(name, 0.0) for times in seen) for name in own}
