"""The loop of SFT, reward modelling and DPO: a fixed set of examples, one jitted step."""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax.config import algorithm_name
from rlhf_jax.data import prefetch
from rlhf_jax.io import Checkpointer, RunFolder
from rlhf_jax.loops.best import Evaluations
from rlhf_jax.loops.errors import TrainingError
from rlhf_jax.loops.held_out import evaluate_loader, make_eval_step, per_document, with_reference
from rlhf_jax.loops.interrupt import StopRequest
from rlhf_jax.loops.place import needs_blocking, place_batch
from rlhf_jax.loops.reference import params_fingerprint, precision_of, reference_logps
from rlhf_jax.loops.resume import Source, check_same_run, earlier_sessions, log_growth, take_state
from rlhf_jax.loops.setup import Setup, load_reference, watch_movement
from rlhf_jax.sharding import replicated
from rlhf_jax.training import (
    TrainState,
    abstract_sharded_state,
    make_sharded_state,
    make_update_step,
    schedule_count,
)
from rlhf_jax.types import Metrics, Params

_log = logging.getLogger(__name__)


class References(NamedTuple):
    """Reference log-probs [num_examples, 2] of both loaders; None where the algorithm needs
    none."""

    train: np.ndarray | None
    eval: np.ndarray | None
    fingerprint: str | None
    """Of the reference's weights; None where the algorithm has no reference."""


class Pending(NamedTuple):
    """A dispatched step whose metrics have not been read yet."""

    step: int
    metrics: Metrics
    tokens: int


def make_train_step(
    setup: Setup, shardings: Any
) -> Callable[[TrainState, Params, Any], tuple[TrainState, Metrics]]:
    """The compiled step: prepare, weigh, gradients, update. The state is donated."""
    algorithm = setup.algorithm
    update = make_update_step(
        algorithm.loss,
        setup.tx,
        weigh=algorithm.weigh,
        num_microbatches=setup.config.training.num_microbatches,
    )

    def train_step(state: TrainState, frozen: Params, batch: Any) -> tuple[TrainState, Metrics]:
        key, step_key = jax.random.split(state.key)
        batch, aux, prepared = algorithm.prepare(batch, state.aux)
        lr = setup.schedule(schedule_count(state.opt_state))
        state, metrics = update(state._replace(key=key, aux=aux), frozen, batch, step_key)
        return state, prepared | metrics | {"lr": lr}

    return jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, replicated(setup.mesh)))


def make_references(setup: Setup) -> References:
    """Scores every pair with the reference, once, where the algorithm works on precomputed
    log-probs."""
    config = setup.config
    if "ref" in setup.frozen:
        return References(None, None, params_fingerprint(setup.frozen["ref"]))
    if "ref_logps" not in setup.algorithm.needs:
        return References(None, None, None)
    params = (
        setup.params
        if config.model.reference is None
        else load_reference(config, setup.mesh, setup.model)
    )

    def score(loader: Any) -> np.ndarray:
        return reference_logps(
            setup.model,
            params,
            loader,
            mesh=setup.mesh,
            batch_size=config.training.eval_batch_size or config.training.batch_size,
            cache_dir=setup.run_dir / "cache",
            precision=precision_of(config),
        )

    held_out = score(setup.eval_loader) if setup.eval_loader is not None else None
    return References(score(setup.train_loader), held_out, params_fingerprint(params))


def start(
    setup: Setup, checkpointer: Checkpointer, source: Source | None, references: References
) -> tuple[TrainState, Any]:
    """The state of a new run, or the one in a checkpoint; and its shardings."""
    config, aux = setup.config, setup.algorithm.aux
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    options: dict[str, Any] = {"mesh": setup.mesh, "aux": aux, "replicate": config.mesh.replicate}
    if source is None:
        return make_sharded_state(setup.params, setup.tx, key, **options)
    abstract, shardings = abstract_sharded_state(setup.params, setup.tx, key, **options)
    if not source.is_other:
        check_same_run(source.meta, same_run(setup, references), setup.run_dir)
    jax.tree.map(lambda x: x.delete(), setup.params)  # the checkpoint's take their place
    if source.is_other:
        state, _, _ = take_state(source, abstract, tx=setup.tx, shardings=shardings, aux=aux)
    else:
        state, _ = checkpointer.restore(source.step, abstract)
    log_growth(config, source, setup.total_steps, count=int(schedule_count(state.opt_state)))
    return state, shardings


def train_offline(
    setup: Setup, *, folder: RunFolder, checkpointer: Checkpointer, source: Source | None
) -> tuple[TrainState, bool]:
    """Trains to the last step, or until asked to stop.

    Step n is dispatched before the metrics of step n-1 are read, so that the device never waits for
    the host.

    Args:
      setup: from `make_setup`. Its parameters are consumed (donated to the state).
      folder: where metrics and progress go.
      checkpointer: where states go.
      source: the checkpoint to go on from, or None to start.

    Returns:
      (state, interrupted): the last state, saved; and whether a signal ended the run early.

    Raises:
      TrainingError: more than `training.max_nonfinite` updates in a row were skipped.
      CheckpointError: a checkpoint could not be read or written.
    """
    config, training = setup.config, setup.config.training
    evaluations = Evaluations(
        config, folder, checkpointer, total_steps=setup.total_steps, **earlier_sessions(source)
    )
    evaluations.check(None)
    references = make_references(setup)
    state, shardings = start(setup, checkpointer, source, references)
    step = int(state.step)
    folder.start(total_steps=setup.total_steps, start_step=step)
    train_step, eval_step = (
        make_train_step(setup, shardings),
        jax.jit(make_eval_step(setup.algorithm, per_document=per_document(config))),
    )

    pending: Pending | None = None
    resumed = source is not None and not source.is_other
    saved = step if resumed else None

    def save(step: int) -> None:
        nonlocal saved
        checkpointer.save(step, state, run_meta(setup, references))
        saved = step
        evaluations.saved(step)

    def evaluate(step: int) -> None:
        """Held-out metrics; an evaluation that a signal ends is dropped, and made when the run goes
        on."""
        if setup.eval_loader is None:
            return
        metrics = evaluate_loader(
            eval_step,
            state.params,
            setup.frozen,
            setup.eval_loader,
            mesh=setup.mesh,
            batch_size=training.eval_batch_size or training.batch_size,
            ref_logps=references.eval,
            stopped=lambda: stop.signum is not None,
        )
        if not metrics:
            _log.info(
                "step %d: the evaluation was given up, as asked to stop; it is made when the run "
                "goes on",
                step,
            )
            return
        folder.write(step, metrics, split="eval")
        evaluations.check(metrics)
        evaluations.made(step, metrics, saved=saved == step)

    with StopRequest() as stop, prefetch(setup.train_loader, step - setup.data_start) as batches:
        if resumed:
            evaluations.resumed()
        if (not resumed or evaluations.is_due(step)) and not evaluations.is_made(step):
            evaluate(step)
        movement = watch_movement(
            config, state.params, mesh=setup.mesh, done=step, total=setup.total_steps
        )
        first = step
        clock = time.perf_counter()
        while step < setup.total_steps and stop.signum is None:
            checkpointer.check()
            batch, tokens = next_batch(batches, setup, references)
            state, metrics = train_step(state, setup.frozen, batch)
            step += 1
            if needs_blocking(setup.mesh):
                jax.block_until_ready(metrics)
            movement.look(state.params, step - first)
            clock = report(pending, folder, setup, clock)
            pending = Pending(step, metrics, tokens)
            last = step == setup.total_steps
            if last or evaluations.is_due(step) or is_save_step(step, training):
                clock, pending = report(pending, folder, setup, clock), None
                # Saved first, evaluated then: a signal during the evaluation finds the state on
                # disk.
                if last or is_save_step(step, training):
                    save(step)
                if evaluations.is_due(step):
                    evaluate(step)
                clock = time.perf_counter()
        report(pending, folder, setup, clock)
        if saved != step:
            save(step)
        whole = step == setup.total_steps and (
            setup.eval_loader is None or evaluations.is_made(step)
        )
        interrupted = stop.signum is not None and not whole
    checkpointer.wait()
    if not interrupted:
        evaluations.finish()
    return state, interrupted


def is_save_step(step: int, training: Any) -> bool:
    """Whether the configuration asks for a checkpoint after this step."""
    return bool(training.save_every) and step % training.save_every == 0


def next_batch(
    batches: Iterator[tuple[int, np.ndarray, Any]], setup: Setup, references: References
) -> tuple[Any, int]:
    """The next batch on the devices, and the number of tokens in it."""
    _, indices, batch = next(batches)
    return place_batch(with_reference(batch, indices, references.train), setup.mesh), int(
        batch.mask.sum()
    )


def report(pending: Pending | None, folder: RunFolder, setup: Setup, clock: float) -> float:
    """Reads and writes the metrics of a dispatched step; returns the time now.

    Raises:
      TrainingError: too many updates in a row were skipped.
    """
    if pending is None:
        return clock
    values = {name: float(value) for name, value in jax.device_get(pending.metrics).items()}
    now = time.perf_counter()
    seconds = now - clock
    values |= {
        "epoch": (pending.step - setup.data_start) / setup.train_loader.batches_per_epoch,
        "time/step": seconds,
        "tokens_per_second": pending.tokens / seconds,
    }
    in_a_row, most = int(values["update/skipped_in_a_row"]), setup.config.training.max_nonfinite
    if values["update/skipped"]:
        _log.warning(
            "step %d: the loss or a gradient is not finite; update skipped (%d in a row)",
            pending.step,
            in_a_row,
        )
    if pending.step % setup.config.training.log_every == 0 or in_a_row > most:
        folder.write(pending.step, values, split="train")
    if in_a_row > most:
        raise TrainingError(
            f"step {pending.step}: the loss or a gradient was not finite {in_a_row} times in a row "
            f"(training.max_nonfinite={most}); lower optimizer.learning_rate or look at the last "
            "rows of metrics.jsonl"
        )
    return now


def run_meta(setup: Setup, references: References) -> dict[str, Any]:
    """What a checkpoint records besides arrays: what must not change in a resumed run, and how to
    rebuild the model."""
    config = setup.config
    return same_run(setup, references) | {
        "algorithm": algorithm_name(config.algorithm),
        "total_steps": setup.total_steps,
        "data_start": setup.data_start,
        "model": setup.model.config.to_hf(),
        "head": config.algorithm.head,
        "dtype": config.model.dtype,
    }


def same_run(setup: Setup, references: References) -> dict[str, Any]:
    """What the position in the data and the loss depend on besides the configuration."""
    config = setup.config
    return {
        "data": setup.train_loader.fingerprint,
        "seed": config.seed,
        "batch_size": config.training.batch_size,
        "reference": references.fingerprint,
    }
