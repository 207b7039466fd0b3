"""A run that samples its own completions (PPO, GRPO, DAPO): from a session to the last state."""

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar, cast

from rlhf_jax.io import CompletionsWriter, Resumed, log_samples
from rlhf_jax.io.fingerprint import params_fingerprint
from rlhf_jax.io.interrupt import StopRequest
from rlhf_jax.loops.collect import Collector
from rlhf_jax.loops.grading import Grader
from rlhf_jax.loops.groups import Cursor, Rollouts, RunState
from rlhf_jax.loops.held_out import SEQUENCE_KL, evaluate_prompts
from rlhf_jax.loops.online import train_online
from rlhf_jax.loops.resume import Begun, Source, begin, rollouts_of, save
from rlhf_jax.rewards.accuracy import metric_names
from rlhf_jax.rollout import Sampler
from rlhf_jax.runs.export import exporter
from rlhf_jax.runs.memory import online_account
from rlhf_jax.runs.offline import Finished, jitted
from rlhf_jax.runs.online_parts import (
    MakeGrader,
    MakeSampler,
    OnlineParts,
    make_online_parts,
    policy_of,
)
from rlhf_jax.runs.parts import log_preset, watch_movement
from rlhf_jax.runs.replay import recorded
from rlhf_jax.runs.sampling import held_out_prompts
from rlhf_jax.runs.session import Session, Stop, last_saved, stop_of
from rlhf_jax.runs.source import check_steps, data_start, log_growth, reward_digests
from rlhf_jax.runs.space import check_space
from rlhf_jax.runs.trees import Given, tree_meta
from rlhf_jax.runs.updating import fresh_state, make_update
from rlhf_jax.sharding import replicated
from rlhf_jax.sharding.processes import from_leader, is_leader, sharing_errors
from rlhf_jax.training import make_optimizers, schedule_count

_log = logging.getLogger(__name__)
SharedT = TypeVar("SharedT", bound=Callable[..., Any] | None)
GRADING = ("rewards", "algorithm.accuracy_reward", "evaluation.accuracy_reward")
"""Keys that decide what a grade means."""


def run_online(
    session: Session,
    *,
    given: Given | None = None,
    sampler: Sampler | MakeSampler | None = None,
    grader: Grader | MakeGrader | None = None,
) -> Finished:
    """Builds a run and trains it.

    Args:
      session: of the run.
      given, sampler, grader: see `make_online_parts`.

    Raises:
      ValueError: anything in the configuration that cannot be done, in one line.
    """
    source = session.source
    parts = make_online_parts(
        session.config, session.run_dir, given=given, sampler=sampler, grader=grader
    )
    config = parts.config
    log_preset(config.algorithm)
    account = online_account(session, parts, given)
    training = config.training
    mesh = parts.mesh
    sampling = parts.sampling
    trained = config.algorithm.models.trained
    first = data_start(source, parts.prompts.fingerprint, in_batches=False)
    total_steps = training.max_steps or first + training.num_epochs * parts.steps_per_epoch
    check_steps(config, source, total_steps)
    updates = sampling.num_updates
    tx = make_optimizers(config.optimizer, trained, total_steps=total_steps * updates)
    at = 0 if source is None else source.step
    check_space(config, parts.loaded.trained, tx, step=at, total_steps=total_steps)
    evaluations = session.evaluations(total_steps)
    evaluations.check(evaluated(parts))
    reference = parts.loaded.frozen.get("ref")
    identity = {
        "data": parts.prompts.fingerprint,
        "seed": config.seed,
        "batch_size": training.batch_size,
        "reference": None if reference is None else params_fingerprint(reference),
        "rewards": reward_digests(config),
    }
    fresh = fresh_state(config, parts.loaded, parts.algorithm, tx, mesh)
    plan = parts.collector(total_steps, lambda columns: None)
    waiting = plan.filler(1 if source is None else max(int(source.meta["groups"]), 1))
    begun = begin(fresh, source, session.checkpointer, identity=identity, groups=waiting)
    rollouts = plan.begin()
    if source is not None:
        rollouts = taken_rollouts(begun, source, plan, identity=identity, restarted=first)
    now = RunState(begun.train, at, rollouts)
    log_growth(
        config,
        source,
        total_steps,
        count=int(schedule_count(now.train.opt_state)),
        updates=updates,
        warmup=trained["policy"].hold,
    )
    meta = session.meta(
        identity,
        total_steps=total_steps,
        data_start=first,
        trees=tree_meta(config, parts.loaded.model),
    )
    update = make_update(config, parts.algorithm, tx, mesh, total_updates=total_steps * updates)
    movement = watch_movement(
        config,
        now.train.params,
        mesh=mesh,
        trained=trained,
        done=at * updates,
        total=total_steps * updates,
    )
    resumed = None
    if session.resumed_at is not None:
        resumed = Resumed(at, rollouts.cursor.num_batches, evaluations.steps)

    with (
        entered(parts.grader),
        accepted(session, parts, resumed, total_steps=total_steps, step=at) as completions,
        StopRequest(lambda: last_saved(session.folder.address)) as request,
    ):
        stop = Stop(request, training.save_before, session.began)
        collect = parts.collector(
            total_steps,
            lambda columns: from_leader("completions", lambda: completions.add(columns)),
        )

        def write(now: RunState) -> None:
            # Completions first: a checkpoint counts on what was generated before it.
            from_leader("flush completions", completions.flush)
            session.folder.publish()
            save(now, session.checkpointer, meta=meta, mesh=mesh, filler=plan.filler(1))

        recorder = session.recorder(
            evaluations,
            save=write,
            evaluate=shared(evaluator(parts, collect, completions, stop)),
            watch=lambda now: movement.look(now.train.params["policy"], (now.step - at) * updates),
            total_steps=total_steps,
            updates_per_step=updates,
            export=exporter(
                config, session.run_dir, parts.loaded.model.role("policy"), parts.tokenizer
            ),
            show=lambda step: show_latest(parts, collect, step),
        )
        score = parts.score()
        replay = parts.replay()
        now, was_interrupted = train_online(
            now,
            frozen=parts.loaded.frozen,
            policy_of=policy_of,
            collect=shared(collect if replay is None else replay.collect),
            to_device=parts.to_device if replay is None else replay.to_device(mesh),
            score=score if replay is None else replay.score,
            step=account.watched(jitted(update, shardings=(begun.shardings, replicated(mesh)))),
            recorder=recorder,
            trained=completions.trained,
            stopped=stop_of(stop, recorder),
            total_steps=total_steps,
            scored=recorded(config.rollout.record),
        )
    session.checkpointer.wait()
    if not was_interrupted:
        recorder.finish()
    account.ended()
    was_asked = request.signum is not None
    return Finished(now, was_interrupted, was_asked, parts.loaded.model, parts.tokenizer)


def shared(work: SharedT) -> SharedT:
    """Of several processes: what fails in one while prompts are completed and graded ends them all
    at the same place, so that together they can save what was learnt."""
    if work is None:
        return work

    def run(*arguments: Any, **named: Any) -> Any:
        with sharing_errors():
            return work(*arguments, **named)

    return cast(SharedT, run)


def evaluated(parts: OnlineParts) -> Collection[str]:
    """Names of the metrics that an evaluation gives; none without held-out prompts."""
    if parts.held_out is None:
        return ()
    names = metric_names(parts.grader.held_out, parts.config.evaluation.samples)
    return names if parts.log_ratios is None else [*names, SEQUENCE_KL]


def taken_rollouts(
    begun: Begun, source: Source, plan: Collector, *, identity: dict[str, Any], restarted: int
) -> Rollouts:
    """The sampling side of a checkpoint, as far as it means something in this run.

    Args:
      begun: the checkpoint's arrays.
      source: the checkpoint.
      plan: of this run.
      identity: of this run.
      restarted: the step at which the order of the prompts begins.
    """
    cursor = Cursor.of(source.meta["cursor"])
    others_grade = source.changed(*GRADING) or source.meta["rewards"] != identity["rewards"]
    if others_grade:
        # What was seen of the rewards by now says nothing about these.
        cursor = cursor._replace(tasks={})
    if source.is_other:
        other_data = restarted == source.step
        if other_data:
            # Places and numbers of prompts are those of other data.
            cursor = Cursor(num_batches=cursor.num_batches)
        if others_grade or other_data or source.changed("rollout.stop"):
            begun = begun._replace(groups=None)
        if source.meta["groups"] and begun.groups is None:
            warn_of_lost_groups(source)
    return rollouts_of(begun, source, cursor=cursor, empty=plan.filler(0))


def warn_of_lost_groups(source: Source) -> None:
    """Says that carried groups are left out."""
    _log.warning(
        "%d groups carried over in %s do not fit and are left out",
        source.meta["groups"],
        source.run_dir,
    )


def entered(grader: Grader) -> contextlib.AbstractContextManager[Any]:
    """The processes of the reward functions, where the grader has some."""
    if isinstance(grader, contextlib.AbstractContextManager):
        return grader
    return contextlib.nullcontext()


@contextlib.contextmanager
def accepted(
    session: Session,
    parts: OnlineParts,
    resumed: Resumed | None,
    *,
    total_steps: int,
    step: int,
) -> Iterator[CompletionsWriter]:
    """The run's files, once the reward functions are loaded too and nothing refuses the run any
    more."""
    session.start(total_steps=total_steps, start_step=step)
    with CompletionsWriter(
        session.folder.path / "completions",
        kind=session.config.logging.save_completions if is_leader() else "none",
        rewards=parts.grader.names,
        group_size=parts.sampling.group_size,
        resumed=resumed,
    ) as completions:
        yield completions


def evaluator(
    parts: OnlineParts, collect: Collector, completions: CompletionsWriter, stop: Stop
) -> Callable[[RunState], dict[str, float]] | None:
    """Held-out metrics of the policy as it is, written with the completions; None: there is nothing
    to ask, or nobody who says what an answer is worth."""
    if parts.held_out is None or parts.measure is None:
        return None
    asked = held_out_prompts(
        parts.measure,
        parts.held_out,
        parts.mesh,
        group_size=parts.sampling.group_size,
        log_ratios=parts.log_ratios,
    )

    def add(columns: dict[str, list[Any]]) -> None:
        from_leader("completions", lambda: completions.add(columns))

    def evaluate(now: RunState) -> dict[str, float]:
        assert now.rollouts is not None
        found = evaluate_prompts(
            policy_of(now.train.params, parts.loaded.frozen),
            asked,
            sampler=parts.sampler,
            grader=parts.grader,
            state=collect.state(now.step, now.rollouts.cursor),
            stopped=stop,
        )
        for samples in found.samples:
            rows = len(samples["completion"])
            where: dict[str, list[Any]] = {
                "step": [now.step] * rows,
                "generation_batch": [None] * rows,
            }
            add(samples | where)
        # Before the row, which says that the evaluation is made.
        from_leader("flush completions", completions.flush)
        kinds = ("held-out, greedy", "held-out, sampled")
        for kind, samples, right in zip(kinds, found.samples, found.right, strict=False):
            show_samples(parts, now.step, kind, samples, right)
        return found.metrics

    return evaluate


def show_samples(
    parts: OnlineParts,
    step: int,
    what: str,
    columns: dict[str, list[Any]],
    right: list[bool | None],
) -> None:
    """A few completions in the log, of which the leader alone speaks."""
    if is_leader():
        log_samples(
            step,
            what,
            columns,
            rewards=parts.grader.names,
            right=right,
            count=parts.config.logging.completions,
        )


def show_latest(parts: OnlineParts, collect: Collector, step: int) -> None:
    """A few of the completions that were trained on last."""
    if collect.latest is not None:
        show_samples(parts, step, "training", *collect.latest)
