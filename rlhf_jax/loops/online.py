"""The loop of PPO, GRPO and DAPO: sample, grade, score, update.

A batch goes from top to bottom of `train_online`: prompts are drawn, completed and graded until there are enough groups
(`collect`); what the algorithm needs to know about the policy before the update is scored; advantages are prepared and the
epochs are run in one program; metrics, completions and checkpoints are written.
"""

import logging
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rlhf_jax.io import Checkpointer, RunFolder, log_completions, save_completions
from rlhf_jax.loops.collect import Collected, Position, collect
from rlhf_jax.loops.errors import TrainingError
from rlhf_jax.loops.groups import Groups, make_batch
from rlhf_jax.loops.held_out_prompts import evaluate_prompts
from rlhf_jax.loops.interrupt import StopRequest
from rlhf_jax.loops.online_setup import OnlineSetup, warmup_updates
from rlhf_jax.loops.online_step import make_online_update, make_score_step
from rlhf_jax.loops.place import place_batch
from rlhf_jax.loops.reference import params_fingerprint
from rlhf_jax.loops.setup import watch_movement
from rlhf_jax.sharding import replicated
from rlhf_jax.training import MovementCheck, TrainState, abstract_sharded_state, make_sharded_state
from rlhf_jax.types import Key, Params

_log = logging.getLogger(__name__)


class Snapshot(NamedTuple):
    """What a checkpoint of an online run holds: the train state and the groups that are carried over."""

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
    setup: OnlineSetup, *, folder: RunFolder, checkpointer: Checkpointer, resume: int | None
) -> tuple[Progress, bool]:
    """Trains to the last step, or until asked to stop, or until every prompt is retired.

    Args:
      setup: from `make_online_setup`. Its parameters are consumed (donated to the state).
      folder: where metrics, completions and progress go.
      checkpointer: where states go.
      resume: step of the checkpoint to go on from, or None to start.

    Returns:
      (progress, interrupted): the last state, saved; and whether a signal ended the run early.

    Raises:
      TrainingError: too many updates in a row were skipped, or there is nothing to learn from (`collect`).
    """
    config, training = setup.config, setup.config.training
    frozen = setup.frozen
    identity = same_online_run(setup)
    now, shardings = start(setup, checkpointer, resume, identity)
    score, update = make_score_step(setup), make_online_update(setup, shardings)
    movement, made = watch(setup, now), now.step
    saved = resume
    with setup.grader, StopRequest() as stop:

        def is_due(every: int) -> bool:
            return bool(every) and now.step % every == 0

        if resume is None:
            evaluate(setup, now, folder)
        while now.step < setup.total_steps and stop.signum is None:
            clock = time.perf_counter()
            params = setup.policy_params(now.state.params)
            try:
                collected = collect(
                    setup, params, now.pending, now.position, step=now.step, stopped=lambda: stop.signum is not None
                )
            except TrainingError:  # what was learnt until now is not lost
                save(setup, checkpointer, now, identity, {})
                raise
            now = now._replace(pending=collected.pending, position=collected.position)
            if collected.groups is None:
                break
            batch = make_batch(
                collected.groups, total_widths=setup.total_widths, scored_widths=setup.scored_widths, step=now.step
            )
            placed = place_batch(batch, setup.mesh)
            sampled = time.perf_counter()
            placed = jax.block_until_ready(score(now.state.params, frozen, placed))
            scored = time.perf_counter()
            state, metrics = update(now.state, frozen, placed)
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            now = now._replace(state=state, step=now.step + 1)
            movement.look(setup.policy_params(state.params), (now.step - made) * setup.updates_per_step)
            done = time.perf_counter()
            times = {"time/score": scored - sampled, "time/update": done - scored, "time/step": done - clock}
            tokens = int(batch.mask.sum())
            report(setup, now, collected, values | times | {"tokens_per_second": tokens / (done - clock)}, folder)
            last = now.step == setup.total_steps
            evaluated = evaluate(setup, now, folder) if last or is_due(training.eval_every) else {}
            if last or is_due(training.save_every):
                save(setup, checkpointer, now, identity, evaluated)
                saved = now.step
        interrupted = stop.signum is not None and now.step < setup.total_steps
        evaluated = {}
        if not interrupted and now.step < setup.total_steps:
            _log.info("step %d: every prompt is retired (retire_pass_rate=%s)", now.step, config.algorithm.retire_pass_rate)
            evaluated = evaluate(setup, now, folder)
        if saved != now.step:
            save(setup, checkpointer, now, identity, evaluated)
    checkpointer.wait()
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


def start(setup: OnlineSetup, checkpointer: Checkpointer, resume: int | None, identity: dict[str, Any]) -> tuple[Progress, Any]:
    """A new run, or the one that a checkpoint holds; and the shardings of its state."""
    config = setup.config
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    options: dict[str, Any] = {"mesh": setup.mesh, "aux": setup.algorithm.aux, "replicate": config.mesh.replicate}
    if resume is None:
        state, shardings = make_sharded_state(setup.params, setup.tx, key, **options)
        return Progress(state, setup.filler(0), Position(), 0), shardings
    abstract, shardings = abstract_sharded_state(setup.params, setup.tx, key, **options)
    meta = checkpointer.read_meta(resume)
    for name, value in identity.items():
        if meta[name] != value:
            raise ValueError(
                f"cannot resume in {setup.run_dir}: {name} was {meta[name]!r} when the checkpoint was made and is {value!r} now; "
                "use the same configuration, or another run_dir"
            )
    jax.tree.map(lambda x: x.delete(), setup.params)  # the checkpoint's take their place
    whole = replicated(setup.mesh)
    held = pending_arrays(setup, setup.filler(max(meta["pending"], 1)))
    structs = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole) for name, x in held.items()}
    snapshot, _ = checkpointer.restore(resume, Snapshot(pending=structs, **abstract._asdict()))
    state = TrainState(**{name: value for name, value in snapshot._asdict().items() if name != "pending"})
    groups = Groups(**{name: np.asarray(value) for name, value in snapshot.pending.items()}).take(slice(0, meta["pending"]))
    place = meta["position"]
    position = Position(place["place"], place["draws"], place["tally"], tuple(place["retired"]))
    return Progress(state, groups._replace(prompt=groups.prompt.astype(np.int64)), position, resume), shardings


def save(
    setup: OnlineSetup, checkpointer: Checkpointer, now: Progress, identity: dict[str, Any], metrics: dict[str, float]
) -> None:
    """Writes a checkpoint named by the training step."""
    position = now.position._asdict() | {"retired": list(now.position.retired)}
    meta = identity | {
        "model": setup.policy.config.to_hf(),
        "head": None if setup.policy.scores is None else "value",
        "dtype": setup.config.model.dtype,
        "critic": None if setup.critic is None else setup.critic.config.to_hf(),
        "pending": now.pending.size,
        "position": position,
    }
    snapshot = Snapshot(pending=pending_arrays(setup, now.pending), **now.state._asdict())
    checkpointer.save(now.step, snapshot, meta, metrics=metrics or None)


def pending_arrays(setup: OnlineSetup, pending: Groups) -> dict[str, Any]:
    """Groups as arrays on the mesh that a checkpoint can hold: at least one group; prompt numbers in 32 bits."""
    held = pending if pending.size else setup.filler(1)
    arrays = held._replace(prompt=held.prompt.astype(np.int32))._asdict()
    return {name: jax.device_put(jnp.asarray(value), replicated(setup.mesh)) for name, value in arrays.items()}


def same_online_run(setup: OnlineSetup) -> dict[str, Any]:
    """What the position in the data and the loss depend on besides the configuration."""
    return {
        "data": setup.prompts.fingerprint,
        "seed": setup.config.seed,
        "batch_size": setup.config.training.batch_size,
        "reference": params_fingerprint(setup.frozen["ref"]) if setup.frozen else None,
    }


def evaluate(setup: OnlineSetup, now: Progress, folder: RunFolder) -> dict[str, float]:
    """Held-out metrics of the policy as it is; written with the completions."""
    began = time.perf_counter()
    found = evaluate_prompts(setup, setup.policy_params(now.state.params), seed=setup.config.seed)
    if found.metrics:
        folder.write(now.step, found.metrics | {"time/evaluate": time.perf_counter() - began}, split="eval")
        write_completions(setup, now.step, found.samples, folder, split="eval")
    return found.metrics


def report(setup: OnlineSetup, now: Progress, collected: Collected, values: dict[str, float], folder: RunFolder) -> None:
    """Writes the metrics and completions of a step.

    Raises:
      TrainingError: too many updates in a row were skipped.
    """
    training = setup.config.training
    updates = int(now.state.step) - int(now.state.skipped[1])
    values = collected.metrics | values | {"lr": float(setup.schedule(max(updates - 1 - warmup_updates(setup.config), 0)))}
    in_a_row, most = int(values["update/skipped_in_a_row"]), training.max_nonfinite * setup.updates_per_step
    if values["update/skipped"]:
        _log.warning("step %d: the loss or a gradient is not finite; update skipped (%d in a row)", now.step, in_a_row)
    if now.step % training.log_every == 0 or in_a_row > most:
        folder.write(now.step, values, split="train")
        if collected.samples:
            write_completions(setup, now.step, collected.samples, folder, split="train")
    if in_a_row > most:
        raise TrainingError(
            f"step {now.step}: the loss or a gradient was not finite {in_a_row} times in a row "
            f"(training.max_nonfinite={training.max_nonfinite}, {setup.updates_per_step} updates a step); "
            "lower optimizer.learning_rate or look at the last rows of metrics.jsonl"
        )


def write_completions(setup: OnlineSetup, step: int, samples: dict[str, list[Any]], folder: RunFolder, *, split: str) -> None:
    """The file of a step's completions, and a few of them in the log at evaluations."""
    logging_config = setup.config.logging
    if logging_config.save_completions != "none":
        save_completions(folder.path / "completions", step, samples, kind=logging_config.save_completions, split=split)
    if split == "eval" and logging_config.completions:
        rewards = [float("nan") if reward is None else reward for reward in samples["reward"]]
        log_completions(step, samples["prompt"], samples["completion"], rewards, count=logging_config.completions)
