"""The loop of PPO, GRPO and DAPO: sample, grade, score, update.

A batch goes from top to bottom of `train_online`: prompts are drawn, completed and graded until
there are enough groups (`collect`); what the algorithm needs to know about the policy before the
update is scored; advantages are prepared and the epochs are run in one program; metrics,
completions and checkpoints are written.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rlhf_jax.config import algorithm_name
from rlhf_jax.io import Checkpointer, CompletionsWriter, Resumed, RunFolder, log_completions
from rlhf_jax.loops.best import Evaluations
from rlhf_jax.loops.collect import Collected, Position, collect, trainer_state
from rlhf_jax.loops.errors import ENDING, TrainingError, save_first
from rlhf_jax.loops.groups import Groups, make_batch
from rlhf_jax.loops.held_out_metrics import metric_names
from rlhf_jax.loops.held_out_prompts import evaluate_prompts
from rlhf_jax.loops.interrupt import StopRequest
from rlhf_jax.loops.online_setup import OnlineSetup, warmup_updates
from rlhf_jax.loops.online_step import make_online_update, make_score_step
from rlhf_jax.loops.place import place_batch
from rlhf_jax.loops.reference import params_fingerprint
from rlhf_jax.loops.resume import (
    Source,
    check_same_run,
    earlier_sessions,
    log_growth,
    reward_digests,
    take_state,
)
from rlhf_jax.loops.setup import watch_movement
from rlhf_jax.sharding import replicated
from rlhf_jax.training import (
    MovementCheck,
    TrainState,
    abstract_sharded_state,
    make_sharded_state,
    schedule_count,
)
from rlhf_jax.types import Key, Params

_log = logging.getLogger(__name__)
GRADING = ("rewards", "algorithm.accuracy_reward", "evaluation.accuracy_reward")
"""Keys that decide what a grade means."""


class Snapshot(NamedTuple):
    """What a checkpoint of an online run holds: the train state and the groups that are carried
    over."""

    params: Params
    step: Array
    opt_state: Any
    key: Key
    aux: Params
    skipped: Array
    pending: dict[str, Any]
    """`Groups` by field; one empty group when there are none, as no array may be empty."""


class Progress(NamedTuple):
    """Everything that changes while training."""

    state: TrainState
    pending: Groups
    position: Position
    step: int
    """Training steps made."""


def train_online(
    setup: OnlineSetup, *, folder: RunFolder, checkpointer: Checkpointer, source: Source | None
) -> tuple[Progress, bool]:
    """Trains to the last step, or until asked to stop, or until every prompt is retired.

    Args:
      setup: from `make_online_setup`. Its parameters are consumed (donated to the state).
      folder: where metrics, completions and progress go.
      checkpointer: where states go.
      source: the checkpoint to go on from, or None to start.

    Returns:
      (progress, interrupted): the last state, saved; and whether a signal ended the run early.

    Raises:
      TrainingError: too many updates in a row were skipped, or there is nothing to learn from
        (`collect`).
    """
    config, training = setup.config, setup.config.training
    frozen = setup.frozen
    identity = same_online_run(setup)
    evaluations = Evaluations(
        config, folder, checkpointer, total_steps=setup.total_steps, **earlier_sessions(source)
    )
    evaluations.check(metric_names(setup.grader.held_out, config.evaluation.samples))
    now, shardings = start(setup, checkpointer, source, identity)
    score, update = make_score_step(setup), make_online_update(setup, shardings)
    movement = watch(setup, now)
    first = now.step
    is_resumed = source is not None and not source.is_other
    saved, ended = (now.step if is_resumed else None), None
    resumed = Resumed(now.step, now.position.draws, evaluations.steps) if is_resumed else None

    def accepted() -> CompletionsWriter:
        """The run's files, once the reward functions are loaded too and nothing refuses the run any
        more."""
        folder.start(total_steps=setup.total_steps, start_step=now.step)
        return CompletionsWriter(
            folder.path / "completions",
            kind=config.logging.save_completions,
            rewards=setup.grader.names,
            group_size=setup.group_size,
            resumed=resumed,
        )

    with setup.grader, accepted() as completions, StopRequest() as stop:

        def stopped() -> bool:
            return stop.signum is not None

        def checkpoint() -> None:
            """Completions first: a checkpoint counts on what was generated before it."""
            nonlocal saved
            completions.flush()
            save(setup, checkpointer, now, identity)
            saved = now.step
            evaluations.saved(now.step)

        def look() -> None:
            """An evaluation; one that a signal ends is dropped, and made when the run goes on."""
            found = evaluate(setup, now, folder, completions, stopped=stopped)
            evaluations.made(now.step, found, saved=saved == now.step)

        if is_resumed:
            evaluations.resumed()
        if (not is_resumed or evaluations.is_due(now.step)) and not evaluations.is_made(now.step):
            look()
        while now.step < setup.total_steps and not stopped():
            checkpointer.check()
            clock = time.perf_counter()
            params = setup.policy_params(now.state.params)
            try:
                collected = collect(
                    setup,
                    params,
                    now.pending,
                    now.position,
                    step=now.step,
                    stopped=stopped,
                    record=completions.add,
                )
            except ENDING:  # what was learnt until now is not lost
                save_first(checkpoint)
                raise
            now = now._replace(pending=collected.pending, position=collected.position)
            ended = collected.ended
            if ended is not None:
                break
            if collected.groups is None:
                now = now._replace(step=now.step + 1)
                report_skipped(setup, now, collected, folder)
            else:
                batch = make_batch(
                    collected.groups,
                    total_widths=setup.total_widths,
                    scored_widths=setup.scored_widths,
                    step=now.step,
                )
                placed = place_batch(batch, setup.mesh)
                sampled = time.perf_counter()
                placed = jax.block_until_ready(score(now.state.params, frozen, placed))
                scored = time.perf_counter()
                state, metrics = update(now.state, frozen, placed)
                values = without_empty_means(
                    {name: float(value) for name, value in jax.device_get(metrics).items()}
                )
                now = now._replace(state=state, step=now.step + 1)
                completions.trained(collected.trained, now.step)
                movement.look(
                    setup.policy_params(state.params), (now.step - first) * setup.updates_per_step
                )
                done = time.perf_counter()
                times = {
                    "time/score": scored - sampled,
                    "time/update": done - scored,
                    "time/step": done - clock,
                }
                tokens = int(batch.mask.sum())
                report(
                    setup,
                    now,
                    collected,
                    values | times | {"tokens_per_second": tokens / (done - clock)},
                    folder,
                )
            # Saved first, evaluated then: a signal during the evaluation finds the state on disk.
            last = now.step == setup.total_steps
            if last or (training.save_every and now.step % training.save_every == 0):
                checkpoint()
            if evaluations.is_due(now.step):
                look()
        if ended == "retired":
            _log.info(
                "step %d: every prompt is retired (retire_pass_rate=%s)",
                now.step,
                config.algorithm.retire_pass_rate,
            )
        if saved != now.step:
            checkpoint()
        over = ended in ("retired", "solved") or now.step == setup.total_steps
        if over and not evaluations.is_made(now.step) and not stopped():
            look()
        interrupted = stopped() and not (
            over and (evaluations.is_made(now.step) or setup.eval_prompts is None)
        )
    checkpointer.wait()
    if not interrupted:
        evaluations.finish()
    return now, interrupted


def watch(setup: OnlineSetup, now: Progress) -> MovementCheck:
    """Whether the policy moves."""
    per_step, resting = setup.updates_per_step, warmup_updates(setup.config)
    return watch_movement(
        setup.config,
        setup.policy_params(now.state.params),
        mesh=setup.mesh,
        done=now.step * per_step,
        total=setup.total_steps * per_step,
        resting=resting,
    )


def start(
    setup: OnlineSetup, checkpointer: Checkpointer, source: Source | None, identity: dict[str, Any]
) -> tuple[Progress, Any]:
    """A new run, or the one that a checkpoint holds; and the shardings of its state."""
    config = setup.config
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    options: dict[str, Any] = {
        "mesh": setup.mesh,
        "aux": setup.algorithm.aux,
        "replicate": config.mesh.replicate,
    }
    if source is None:
        state, shardings = make_sharded_state(setup.params, setup.tx, key, **options)
        return Progress(state, setup.filler(0), Position(), 0), shardings
    abstract, shardings = abstract_sharded_state(setup.params, setup.tx, key, **options)
    meta = source.meta
    if not source.is_other:
        check_same_run(meta, identity, setup.run_dir)
    jax.tree.map(lambda x: x.delete(), setup.params)  # the checkpoint's take their place
    whole = replicated(setup.mesh)
    held = pending_arrays(setup, setup.filler(max(meta["pending"], 1)))
    structs = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole) for name, x in held.items()
    }
    wanted = Snapshot(pending=structs, **abstract._asdict())
    position = Position.of(meta["position"])
    others_grade = (
        source.changed(*GRADING) or meta.get("rewards", identity["rewards"]) != identity["rewards"]
    )
    if others_grade:  # what was seen of the rewards by now says nothing about these
        position = position._replace(tasks={})
    if source.is_other:
        state, further, _ = take_state(
            source,
            wanted,
            tx=setup.tx,
            shardings=shardings,
            aux=setup.algorithm.aux,
            resting=warmup_updates(config),
        )
        others_groups = (
            others_grade or source.changed("rollout.stop") or setup.data_start == source.step
        )
        fits = None if others_groups else further.get("pending")
        pending = taken_groups(source, fits)
        if setup.data_start == source.step:  # places and numbers of prompts are those of other data
            position = Position(draws=position.draws)
    else:
        snapshot, _ = checkpointer.restore(source.step, wanted)
        state = TrainState(
            **{name: value for name, value in snapshot._asdict().items() if name != "pending"}
        )
        pending = snapshot.pending
    count = int(schedule_count(state.opt_state))
    log_growth(
        config,
        source,
        setup.total_steps,
        count=count,
        updates=setup.updates_per_step,
        warmup=warmup_updates(config),
    )
    if pending is None:
        return Progress(
            state, setup.filler(0), position._replace(tally={}, carried=()), source.step
        ), shardings
    groups = Groups(**{name: np.asarray(value) for name, value in pending.items()}).take(
        slice(0, meta["pending"])
    )
    return Progress(
        state, groups._replace(prompt=groups.prompt.astype(np.int64)), position, source.step
    ), shardings


def taken_groups(source: Source, pending: dict[str, Any] | None) -> dict[str, Any] | None:
    """The groups that another run carried over; None where their prompts, grades or shapes mean
    something else here."""
    if source.meta["pending"] and pending is None:
        _log.warning(
            "%d groups carried over in %s do not fit and are left out",
            source.meta["pending"],
            source.run_dir,
        )
    return pending


def save(
    setup: OnlineSetup, checkpointer: Checkpointer, now: Progress, identity: dict[str, Any]
) -> None:
    """Writes a checkpoint named by the training step."""
    meta = identity | {
        "algorithm": algorithm_name(setup.config.algorithm),
        "total_steps": setup.total_steps,
        "data_start": setup.data_start,
        "model": setup.policy.config.to_hf(),
        "head": None if setup.policy.scores is None else "value",
        "dtype": setup.config.model.dtype,
        "critic": None if setup.critic is None else setup.critic.config.to_hf(),
        "pending": now.pending.size,
        "position": now.position.plain(),
    }
    snapshot = Snapshot(pending=pending_arrays(setup, now.pending), **now.state._asdict())
    checkpointer.save(now.step, snapshot, meta)


def pending_arrays(setup: OnlineSetup, pending: Groups) -> dict[str, Any]:
    """Groups as arrays on the mesh that a checkpoint can hold: at least one group; prompt numbers
    in 32 bits."""
    held = pending if pending.size else setup.filler(1)
    arrays = held._replace(prompt=held.prompt.astype(np.int32))._asdict()
    return {
        name: jax.device_put(jnp.asarray(value), replicated(setup.mesh))
        for name, value in arrays.items()
    }


def same_online_run(setup: OnlineSetup) -> dict[str, Any]:
    """What the position in the data and the loss depend on besides the configuration."""
    return {
        "data": setup.prompts.fingerprint,
        "seed": setup.config.seed,
        "batch_size": setup.config.training.batch_size,
        "reference": params_fingerprint(setup.frozen["ref"]) if setup.frozen else None,
        "rewards": reward_digests(setup.config),
    }


def evaluate(
    setup: OnlineSetup,
    now: Progress,
    folder: RunFolder,
    completions: CompletionsWriter,
    *,
    stopped: Callable[[], bool],
) -> dict[str, float]:
    """Held-out metrics of the policy as it is, written with the completions; nothing when it was
    stopped."""
    began = time.perf_counter()
    setup.grader.state = trainer_state(setup, now.step, now.position)
    found = evaluate_prompts(
        setup, setup.policy_params(now.state.params), seed=setup.config.seed, stopped=stopped
    )
    if found.stopped:
        _log.info(
            "step %d: the evaluation was given up, as asked to stop; it is made when the run goes "
            "on",
            now.step,
        )
    if not found.metrics:
        return {}
    seconds = time.perf_counter() - began
    for samples in found.samples:
        rows = len(samples["completion"])
        completions.add(samples | {"step": [now.step] * rows, "generation_batch": [None] * rows})
    completions.flush()  # before the row, which says that the evaluation is made
    folder.write(now.step, found.metrics | {"time/evaluate": seconds}, split="eval")
    shown, first = setup.config.logging.completions, found.samples[0]
    if shown:
        log_completions(
            now.step, first["prompt"], first["completion"], first["reward"], count=shown
        )
    return found.metrics


def without_empty_means(metrics: dict[str, float]) -> dict[str, float]:
    """Leaves out the means over rewards where no completion was graded: NaN, which must not be
    shown as 0."""
    return {
        name: value
        for name, value in metrics.items()
        if not (name.startswith("rewards/") and np.isnan(value))
    }


def report_skipped(
    setup: OnlineSetup, now: Progress, collected: Collected, folder: RunFolder
) -> None:
    """Writes the metrics of a step that was left out."""
    if now.step % setup.config.training.log_every == 0:
        folder.write(now.step, collected.metrics, split="train")


def report(
    setup: OnlineSetup,
    now: Progress,
    collected: Collected,
    values: dict[str, float],
    folder: RunFolder,
) -> None:
    """Writes the metrics of a step.

    Raises:
      TrainingError: too many updates in a row were skipped.
    """
    training = setup.config.training
    count = int(schedule_count(now.state.opt_state))  # 0: no update has moved the policy yet
    values = collected.metrics | values | {"lr": float(setup.schedule(count - 1)) if count else 0.0}
    in_a_row, most = (
        int(values["update/skipped_in_a_row"]),
        training.max_nonfinite * setup.updates_per_step,
    )
    if values["update/skipped"]:
        _log.warning(
            "step %d: the loss or a gradient is not finite; update skipped (%d in a row)",
            now.step,
            in_a_row,
        )
    if now.step % training.log_every == 0 or in_a_row > most:
        folder.write(now.step, values, split="train")
    if in_a_row > most:
        raise TrainingError(
            f"step {now.step}: the loss or a gradient was not finite {in_a_row} times in a row "
            f"(training.max_nonfinite={training.max_nonfinite}, {setup.updates_per_step} updates a "
            "step); "
            "lower optimizer.learning_rate or look at the last rows of metrics.jsonl"
        )
