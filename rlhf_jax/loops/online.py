"""The loop of PPO, GRPO and DAPO: sample, grade, score, update.

A batch goes from top to bottom: prompts are drawn, completed and graded until there are enough
groups (`collect`); what the algorithm needs to know about the policy before the update is scored;
advantages are prepared and the epochs are run in one program; metrics, completions and checkpoints
are written.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rlhf_jax.errors import PeerError, TrainingError
from rlhf_jax.io.completions import GroupId
from rlhf_jax.loops.collect import Collected
from rlhf_jax.loops.groups import Groups, RunState
from rlhf_jax.loops.recorder import Recorder
from rlhf_jax.rewards.errors import RewardError, RewardProcessError
from rlhf_jax.sharding import fetch
from rlhf_jax.training import TrainState
from rlhf_jax.types import Metrics, Params, PolicyBatch, Trees

_log = logging.getLogger(__name__)
ENDING = (TrainingError, RewardError, RewardProcessError, PeerError)
"""What ends a run although nothing is wrong with its state, which is saved first."""

Score = Callable[[Trees, Trees, PolicyBatch], PolicyBatch]
"""(trained, frozen, batch) -> batch with what `Algorithm.needs` names; jitted."""


def train_online(
    now: RunState,
    *,
    frozen: Trees,
    policy_of: Callable[[Trees, Trees], Params],
    collect: Callable[..., Collected],
    to_device: Callable[[Groups, int], PolicyBatch],
    score: Score,
    step: Callable[[TrainState, Trees, PolicyBatch], tuple[TrainState, Metrics]],
    recorder: Recorder,
    trained: Callable[[Sequence[GroupId], int], None],
    stopped: Callable[[], bool],
    total_steps: int,
    scored: Callable[[PolicyBatch, int], None] | None = None,
) -> tuple[RunState, bool]:
    """Trains to the last step, until asked to stop, or until every prompt is retired.

    Args:
      now: a new run's state or a checkpoint's; consumed (donated to the step).
      frozen: trees that are read and not trained.
      policy_of: (trained, frozen) -> the parameters to sample with.
      collect: (params, rollouts, *, step, stopped) -> groups worth training on (`Collector`).
      to_device: (groups, step) -> a batch in its shards.
      score: fills what `Algorithm.needs` names.
      step: prepare, then epochs x minibatches x microbatches, in one program.
      recorder: metrics, evaluations and checkpoints at their steps.
      trained: hears which groups were trained on in which step.
      stopped: whether a signal asked to stop.
      total_steps: of the whole run.
      scored: sees every batch as the update gets it, with its step; None: nobody does.

    Returns:
      (the last state, saved; whether a signal ended the run early).

    Raises:
      TrainingError: too many updates in a row were skipped, or there is nothing to learn from.
    """
    recorder.started(now)
    ended = None
    while now.step < total_steps and not stopped():
        recorder.check()
        began = time.perf_counter()
        assert now.rollouts is not None
        # The policy that samples is the one that is updated next: no step is taken between.
        policy = policy_of(now.train.params, frozen)
        try:
            collected = collect(policy, now.rollouts, step=now.step, stopped=stopped)
        except ENDING:
            # Nothing to learn from: what was learnt until now is not lost.
            recorder.save_first(now)
            raise
        # The groups that are left belong to the state, with the cursor that drew them: a stop in
        # the middle of a refill loses none.
        now = now._replace(rollouts=collected.rest)
        ended = collected.ended
        if ended is not None:
            break
        if collected.groups is None:
            now = now._replace(step=now.step + 1)
            recorder.row(now.step, collected.metrics)
        else:
            batch = to_device(collected.groups, now.step)
            sampled = time.perf_counter()
            # Scored before the update, by the parameters that are about to change.
            batch = jax.block_until_ready(score(now.train.params, frozen, batch))
            score_time = time.perf_counter()
            if scored is not None:
                scored(batch, now.step)
            train, metrics = step(now.train, frozen, batch)
            values = host_values(metrics)
            done = time.perf_counter()
            now = now._replace(train=train, step=now.step + 1)
            # Only now are the groups named as trained on: the update has been made.
            trained(collected.trained, now.step)
            recorder.stepped(now)
            tokens = float(np.sum(collected.groups.length))
            times = {
                "time/score": score_time - sampled,
                "time/update": done - score_time,
                "time/step": done - began,
                "tokens_per_second": tokens / (done - began),
            }
            recorder.row(now.step, collected.metrics | values | times)
        recorder.due(now)
    over = ended in ("retired", "solved") or now.step == total_steps
    if ended == "retired":
        _log.info("step %d: every prompt is retired (algorithm.retire_pass_rate)", now.step)
    return now, recorder.ended(now, over=over, stopped=stopped())


def host_values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as numbers, without the means over rewards where no completion was graded: NaN, which
    must not be shown as 0."""
    values = {name: float(value) for name, value in fetch(dict(metrics)).items()}
    return {
        name: value
        for name, value in values.items()
        if not (name.startswith("rewards/") and np.isnan(value))
    }
