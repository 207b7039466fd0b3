"""A run on data that is there (SFT, reward models, DPO): from a session to the last state."""

import functools
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from rlhf_jax import programs
from rlhf_jax.algorithms import make_algorithm
from rlhf_jax.config import Config
from rlhf_jax.data import FastTokenizer, Loader, make_loader, prefetch
from rlhf_jax.io.fingerprint import params_fingerprint
from rlhf_jax.io.interrupt import StopRequest
from rlhf_jax.loops.groups import RunState
from rlhf_jax.loops.held_out import EvalStep, evaluate_loader, make_eval_step, with_cached
from rlhf_jax.loops.offline import Step, train_offline
from rlhf_jax.loops.resume import Source, begin, save
from rlhf_jax.programs import last_batch, named
from rlhf_jax.runs.cached import cached_scores, jitted_scores, precision_of
from rlhf_jax.runs.export import exporter
from rlhf_jax.runs.memory import offline_account
from rlhf_jax.runs.parts import (
    check_batch,
    check_positions,
    check_same,
    check_vocabulary,
    make_tokenizer,
    packing_of,
    watch_movement,
)
from rlhf_jax.runs.session import Session, Stop, last_saved, stop_of
from rlhf_jax.runs.source import check_steps, data_start, log_growth
from rlhf_jax.runs.space import check_space
from rlhf_jax.runs.trees import Given, Loaded, load_reference, load_trees, tree_meta
from rlhf_jax.runs.updating import fresh_state, make_update
from rlhf_jax.sharding import make_mesh, needs_blocking, own_rows, place_batch, replicated
from rlhf_jax.sharding.hosts import warn_of_tensor_between_hosts
from rlhf_jax.sharding.processes import count
from rlhf_jax.training import (
    TrainState,
    UpdateStep,
    make_optimizers,
    schedule_count,
)
from rlhf_jax.types import Algorithm, Metrics, Model, Params, Trees


class OfflineParts(NamedTuple):
    """What reads, scores and trains: everything that a configuration names."""

    mesh: Mesh
    tokenizer: FastTokenizer
    loader: Loader
    held_out: Loader | None
    loaded: Loaded
    algorithm: Algorithm
    tx: optax.GradientTransformation
    first: int
    """The training step at which the order of the data begins."""
    total_steps: int


class Cached(NamedTuple):
    """`Algorithm.cached` of every example; empty where the algorithm has none."""

    train: dict[str, np.ndarray]
    held_out: dict[str, np.ndarray]
    fingerprint: str | None
    """Of the reference's weights; None: the run reads no reference."""


class Finished(NamedTuple):
    """What a loop leaves."""

    now: RunState
    was_interrupted: bool
    was_asked: bool
    """A signal came, if only when nothing was left to do."""
    model: Model
    tokenizer: FastTokenizer


def make_offline_parts(
    config: Config,
    run_dir: pathlib.Path,
    source: Source | None,
    *,
    given: Given | None = None,
) -> OfflineParts:
    """Builds everything that a configuration names, cheapest mistakes first.

    Args:
      config: a whole run.
      run_dir: its folder.
      source: where it begins; None: at its start.
      given: a model of one's own.

    Raises:
      ValueError: anything in the configuration that cannot be done, in one line.
    """
    kind = config.algorithm.data
    training = config.training
    mesh = make_mesh(config.mesh)
    warn_of_tensor_between_hosts(mesh)
    check_batch(config, mesh)
    tokenizer = make_tokenizer(config, run_dir, kind)
    loader, held_out = make_loaders(config, run_dir, tokenizer, mesh)
    first = data_start(source, loader.fingerprint, in_batches=True)
    total_steps = training.max_steps or first + training.num_epochs * loader.batches_per_epoch
    check_steps(config, source, total_steps)
    trained = config.algorithm.models.trained
    tx = make_optimizers(config.optimizer, trained, total_steps=total_steps)
    loaded = load_trees(config, mesh, given=given)
    check_vocabulary(loaded.model, tokenizer)
    loaders = [each for each in (loader, held_out) if each is not None]
    longest = max(width for each in loaders for width in each.buckets)
    check_positions(loaded.model, longest, options=f"data.max_length={config.data.max_length}")
    algorithm = make_algorithm(config.algorithm, loaded.model)
    return OfflineParts(
        mesh, tokenizer, loader, held_out, loaded, algorithm, tx, first, total_steps
    )


def run_offline(session: Session, *, given: Given | None = None) -> Finished:
    """Builds everything that the configuration names and trains.

    Args:
      session: of the run.
      given: a model of one's own.

    Raises:
      ValueError: anything in the configuration that cannot be done, in one line.
    """
    config = session.config
    source = session.source
    training = config.training
    parts = make_offline_parts(config, session.run_dir, source, given=given)
    mesh = parts.mesh
    loader = parts.loader
    held_out = parts.held_out
    loaded = parts.loaded
    first = parts.first
    total_steps = parts.total_steps
    account = offline_account(session, mesh, loader, given)
    trained = config.algorithm.models.trained
    at = 0 if source is None else source.step
    check_space(config, loaded.trained, parts.tx, step=at, total_steps=total_steps)
    evaluations = session.evaluations(total_steps)
    evaluations.check(None)
    # While the trained trees still are the start, the reference may be read from them.
    cached = score_once(session, parts)
    identity = {
        "data": loader.fingerprint,
        "seed": config.seed,
        "batch_size": training.batch_size,
        "reference": cached.fingerprint,
    }
    fresh = fresh_state(config, loaded, parts.algorithm, parts.tx, mesh)
    begun = begin(fresh, source, session.checkpointer, identity=identity)
    now = RunState(begun.train, int(begun.train.step))
    log_growth(config, source, total_steps, count=int(schedule_count(now.train.opt_state)))
    meta = session.meta(
        identity,
        total_steps=total_steps,
        data_start=first,
        trees=tree_meta(config, loaded.model),
    )
    update = make_update(config, parts.algorithm, parts.tx, mesh, total_updates=total_steps)
    eval_step = jitted_evaluation(parts.algorithm)
    movement = watch_movement(
        config,
        now.train.params,
        mesh=mesh,
        trained=trained,
        done=now.step,
        total=total_steps,
    )
    start_step = now.step
    session.start(total_steps=total_steps, start_step=start_step)

    with (
        StopRequest(lambda: last_saved(session.folder.address)) as request,
        prefetch(loader, now.step - first) as batches,
    ):
        stop = Stop(request, training.save_before, session.began)

        def evaluate(now: RunState) -> dict[str, float]:
            assert held_out is not None
            metrics = evaluate_loader(
                eval_step,
                now.train.params,
                loaded.frozen,
                held_out,
                mesh=mesh,
                batch_size=training.eval_batch_size or training.batch_size,
                cached=cached.held_out,
                stopped=stop,
            )
            if metrics:
                evaluations.check(metrics)
            return metrics

        def write(now: RunState) -> None:
            session.folder.publish()
            save(now, session.checkpointer, meta=meta, mesh=mesh)

        recorder = session.recorder(
            evaluations,
            save=write,
            evaluate=None if held_out is None else evaluate,
            watch=lambda now: movement.look(now.train.params["policy"], now.step - start_step),
            total_steps=total_steps,
            export=exporter(config, session.run_dir, loaded.model.role("policy"), parts.tokenizer),
        )
        now, was_interrupted = train_offline(
            now,
            frozen=loaded.frozen,
            batches=with_scores(batches, cached.train),
            to_device=lambda batch: place_batch(batch, mesh),
            step=account.watched(jitted(update, shardings=(begun.shardings, replicated(mesh)))),
            recorder=recorder,
            stopped=stop_of(stop, recorder),
            total_steps=total_steps,
            epoch_of=lambda step: (step - first) / loader.batches_per_epoch,
            tokens_before=loader.tokens_before(start_step - first),
            block=needs_blocking(mesh),
        )
    session.checkpointer.wait()
    if not was_interrupted:
        recorder.finish()
    account.ended()
    was_asked = request.signum is not None
    return Finished(now, was_interrupted, was_asked, loaded.model, parts.tokenizer)


def make_loaders(
    config: Config, run_dir: pathlib.Path, tokenizer: FastTokenizer, mesh: Mesh
) -> tuple[Loader, Loader | None]:
    """(training rows, held-out rows or None); a process fills the rows that its devices hold."""
    training = config.training
    options: dict[str, Any] = {
        "kind": config.algorithm.data,
        "seed": config.seed,
        "cache_dir": run_dir / "cache",
        "packing": packing_of(config, mesh),
        "owns": None if count() == 1 else functools.partial(own_rows, mesh),
    }
    loader = make_loader(
        config.data, tokenizer, split="train", batch_size=training.batch_size, **options
    )
    check_same("training data", loader.fingerprint)
    if not config.data.has_eval:
        return loader, None
    size = training.eval_batch_size or training.batch_size
    return loader, make_loader(config.data, tokenizer, split="eval", batch_size=size, **options)


def score_once(session: Session, parts: OfflineParts) -> Cached:
    """`Algorithm.cached` of both splits, from the reference, which leaves memory afterwards."""
    config = session.config
    loaded = parts.loaded
    if not parts.algorithm.cached:
        reference = loaded.frozen.get("ref")
        return Cached({}, {}, None if reference is None else params_fingerprint(reference))
    tree: Params = loaded.trained["policy"]
    if config.model.reference is not None:
        tree = load_reference(config, parts.mesh, loaded.model)[1]

    score = jitted_scores(parts.algorithm.cached)

    def of(each: Loader) -> dict[str, np.ndarray]:
        return cached_scores(
            parts.algorithm.cached,
            score,
            {"ref": tree},
            each,
            model=loaded.model,
            mesh=parts.mesh,
            batch_size=config.training.eval_batch_size or config.training.batch_size,
            cache_dir=session.run_dir / "cache",
            precision=precision_of(config),
        )

    kept = {} if parts.held_out is None else of(parts.held_out)
    return Cached(of(parts.loader), kept, params_fingerprint(tree))


def with_scores(batches: Iterator[Any], cached: dict[str, np.ndarray]) -> Iterator[Any]:
    """Batches with the cached fields of their examples."""
    for _, indices, batch in batches:
        yield with_cached(batch, indices, cached)


def jitted_evaluation(algorithm: Algorithm) -> EvalStep:
    """The compiled evaluation of a loss."""
    return named("evaluate", programs.jitted(make_eval_step(algorithm)), last_batch)


def jitted(update: UpdateStep, *, shardings: Any) -> Step:
    """The compiled step of a host loop: the state's key is split once, and the state is donated."""

    def step(state: TrainState, frozen: Trees, batch: Any) -> tuple[TrainState, Metrics]:
        key, step_key = jax.random.split(state.key)
        return update(state._replace(key=key), frozen, batch, step_key)

    return programs.jitted(step, donate_argnums=0, out_shardings=shardings)
