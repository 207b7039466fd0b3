"""The loop of SFT, reward modelling and DPO: examples that are there, one jitted step.

From top to bottom: a batch is taken and placed, the step is dispatched, and while the device works
the metrics of the step before are read and written.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from rlhf_jax.loops.groups import RunState
from rlhf_jax.loops.recorder import Recorder
from rlhf_jax.training import TrainState
from rlhf_jax.types import Metrics, Trees

Step = Callable[[TrainState, Trees, Any], tuple[TrainState, Metrics]]
"""(state, frozen, batch) -> (state, metrics), jitted; the state is donated."""


class Waiting(NamedTuple):
    """A dispatched step whose metrics have not been read yet."""

    step: int
    metrics: Metrics
    tokens: int
    seen: int
    """Tokens of all steps so far, earlier sessions included."""


def train_offline(
    now: RunState,
    *,
    frozen: Trees,
    batches: Iterator[Any],
    to_device: Callable[[Any], Any],
    step: Step,
    recorder: Recorder,
    stopped: Callable[[], bool],
    total_steps: int,
    epoch_of: Callable[[int], float],
    tokens_before: int,
    block: bool = False,
) -> tuple[RunState, bool]:
    """Trains to the last step, or until asked to stop.

    Args:
      now: a new run's state or a checkpoint's; consumed (donated to the step).
      frozen: trees that are read and not trained.
      batches: host batches, in the run's order, from this step on.
      to_device: a batch in its shards.
      step: one update, in one program.
      recorder: metrics, evaluations and checkpoints at their steps.
      stopped: whether a signal asked to stop.
      total_steps: of the whole run.
      epoch_of: passes over the data after some steps.
      tokens_before: tokens of the steps already made.
      block: await every step (virtual CPU devices deadlock otherwise).

    Returns:
      (the last state, saved; whether a signal ended the run early).

    Raises:
      TrainingError: too many updates in a row were skipped.
      CheckpointError: a checkpoint could not be read or written.
    """

    def read(waiting: Waiting | None, clock: float) -> float:
        """Waits for a step, writes its row, and returns the time."""
        if waiting is None:
            return clock
        values = {name: float(value) for name, value in jax.device_get(waiting.metrics).items()}
        done = time.perf_counter()
        timed = {
            "epoch": epoch_of(waiting.step),
            "data/tokens": waiting.seen,
            "time/step": done - clock,
            "tokens_per_second": waiting.tokens / (done - clock),
        }
        recorder.row(waiting.step, values | timed)
        return done

    recorder.started(now)
    waiting: Waiting | None = None
    seen = tokens_before
    clock = time.perf_counter()
    while now.step < total_steps and not stopped():
        recorder.check()
        batch = next(batches)
        train, metrics = step(now.train, frozen, to_device(batch))
        now = RunState(train, now.step + 1)
        if block:
            jax.block_until_ready(metrics)
        recorder.stepped(now)
        # The step is on its way: the row of the one before is read while the device works, so that
        # the device never waits for the host.
        clock = read(waiting, clock)
        tokens = int(batch.mask.sum())
        seen += tokens
        waiting = Waiting(now.step, metrics, tokens, seen)
        if now.step == total_steps or recorder.is_due(now.step):
            # A checkpoint or an evaluation reads the state: its own row comes before it.
            clock = read(waiting, clock)
            waiting = None
            recorder.due(now)
            clock = time.perf_counter()
    read(waiting, clock)
    return now, recorder.ended(now, over=now.step == total_steps, stopped=stopped())
