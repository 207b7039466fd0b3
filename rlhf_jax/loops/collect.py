"""Filling a training batch: prompts are drawn, completed and graded until there are enough groups
(DAPO's dynamic sampling)."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from rlhf_jax.algorithms import DAPOConfig
from rlhf_jax.io.completions import GroupId
from rlhf_jax.loops.cap import at_cap, warn_unjudged
from rlhf_jax.loops.groups import Groups, from_rollout, join
from rlhf_jax.loops.judging import Tasks, Verdict
from rlhf_jax.loops.online_setup import OnlineSetup
from rlhf_jax.rewards import TrainerState
from rlhf_jax.rewards.answers import content_of
from rlhf_jax.rollout import SamplingParams
from rlhf_jax.types import Params


class Position(NamedTuple):
    """Where a run is in its prompts, and what the batch being filled has cost so far. JSON can hold
    it."""

    place: int = 0
    """Prompts passed, over all epochs."""
    draws: int = 0
    """Generation batches made: numbers their random keys."""
    tally: dict[str, float] = {}
    """Sums over the generation batches of the batch being filled."""
    retired: tuple[int, ...] = ()
    """Prompts that are solved often enough and not asked again."""
    tasks: Tasks = {}
    """What is known about which reward judges which rows (`Judge.learn`)."""
    carried: tuple[GroupId, ...] = ()
    """Which groups are carried over, in their order."""
    skipped: int = 0
    """Steps left out because the cap was reached (on_cap=skip)."""

    def plain(self) -> dict[str, Any]:
        """What JSON holds."""
        lists = {
            "retired": list(self.retired),
            "carried": [list(group) for group in self.carried],
            "tasks": dict(self.tasks),
        }
        return self._asdict() | lists

    @classmethod
    def of(cls, held: Mapping[str, Any]) -> "Position":
        """From what JSON held; fields that came after it was written have their defaults."""
        position = cls(**{name: value for name, value in held.items() if name in cls._fields})
        carried = tuple((int(batch), int(group)) for batch, group in position.carried)
        return position._replace(retired=tuple(position.retired), carried=carried)


Ended = Literal["stopped", "retired", "solved"]
"""Why a run ends: a signal; every prompt is retired; everything generated is right."""


class Collected(NamedTuple):
    """What `collect` brings back."""

    groups: Groups | None
    """A full training batch (filled up with empty groups at the cap); None: nothing to train on in
    this step."""
    pending: Groups
    """Carried over."""
    position: Position
    metrics: dict[str, float]
    ended: Ended | None = None
    """Why there are no groups, now or ever; None: the batch is there, or the step is left out."""
    trained: tuple[GroupId, ...] = ()
    """Which groups are in the batch."""


Record = Callable[[dict[str, list[Any]]], None]
"""Takes the completions of a generation batch, as columns (`rlhf_jax.io.CompletionsWriter.add`)."""


class Batch(NamedTuple):
    """One generation batch, graded."""

    groups: Groups
    tally: dict[str, float]
    samples: dict[str, list[Any]]


def collect(
    setup: OnlineSetup,
    params: Params,
    pending: Groups,
    position: Position,
    *,
    step: int,
    stopped: Callable[[], bool],
    record: Record = lambda columns: None,
) -> Collected:
    """Generates until a training batch is full.

    With dynamic sampling (arXiv:2503.14476 eq. 11) only groups with a right and a wrong answer
    count, judged before any penalty. Groups beyond the batch are carried over and are the first of
    the next one. `stopped` is asked between generation batches; what has been collected by then is
    in `pending`, nothing is lost.

    Args:
      setup: the run.
      params: the policy's parameters.
      pending: groups carried over.
      position: where the run is.
      step: training steps made so far.
      stopped: whether a signal asked to stop.
      record: takes the completions as they are generated.

    Returns:
      A `Collected`.

    Raises:
      TrainingError: `max_generation_batches` were generated and the batch is not full, with
        on_cap=raise, or there is not one group to train on (unless all are right, or with
        on_cap=skip).
    """
    size, dynamic = setup.config.training.batch_size, dynamic_sampling(setup)
    tally = position.tally or {"data/groups_carried": float(pending.size)}
    # a checkpoint of an older version does not say which groups it holds
    unknown = ((-1, -1),) * (pending.size - len(position.carried))
    position = position._replace(tally=tally, carried=unknown + position.carried)
    setup.grader.state = trainer_state(setup, step, position)
    while pending.size < size:
        if stopped():
            return Collected(None, pending, position, {}, "stopped")
        if (
            dynamic is not None
            and position.tally.get("data/generation_batches", 0) >= dynamic.max_generation_batches
        ):
            decision = at_cap(setup.config, dynamic, position.tally, pending.size)
            if decision == "solved":
                return Collected(None, pending, position, {}, "solved")
            if decision == "skip":
                position = position._replace(skipped=position.skipped + 1)
                metrics = collection_metrics(setup, position, pending, 0)
                return Collected(None, pending, position._replace(tally={}), metrics)
            break
        indices, place = draw_prompts(setup, position)
        if not len(indices):
            if pending.size:
                break
            return Collected(None, pending, position, {}, "retired")
        batch = generate_groups(setup, params, indices, draw=position.draws, step=step)
        tasks = setup.grader.judge.learn(batch.groups.rewards, batch.groups.parts, position.tasks)
        outcome = filter_groups(setup, batch.groups, tasks, position.retired)
        record(recorded(setup, batch, outcome.keep, draw=position.draws, step=step))
        pending = join(pending, batch.groups.take(outcome.keep))
        warn_unjudged(setup.grader, outcome.unjudged, dynamic is not None)
        added = batch.tally | outcome.tally
        position = position._replace(
            place=place,
            draws=position.draws + 1,
            tally={
                name: position.tally.get(name, 0.0) + added.get(name, 0.0)
                for name in position.tally | added
            },
            retired=outcome.retired,
            tasks=tasks,
            carried=position.carried
            + tuple((position.draws, int(group)) for group in np.flatnonzero(outcome.keep)),
        )
    batch_groups, rest = pending.take(slice(None, size)), pending.take(slice(size, None))
    metrics = collection_metrics(setup, position, rest, batch_groups.size)
    trained, carried = position.carried[:size], position.carried[size:]
    if batch_groups.size < size:
        batch_groups = join(batch_groups, setup.filler(size - batch_groups.size))
    return Collected(
        batch_groups, rest, position._replace(tally={}, carried=carried), metrics, trained=trained
    )


def dynamic_sampling(setup: OnlineSetup) -> DAPOConfig | None:
    """The algorithm's options where it samples dynamically."""
    algorithm = setup.config.algorithm
    return algorithm if isinstance(algorithm, DAPOConfig) and algorithm.dynamic_sampling else None


def trainer_state(setup: OnlineSetup, step: int, position: Position) -> TrainerState:
    """What reward functions that ask for TRL's `trainer_state` are told."""
    return TrainerState(
        global_step=step,
        max_steps=setup.total_steps,
        epoch=position.place / setup.prompts.num_examples,
        num_train_epochs=int(setup.config.training.num_epochs),
    )


def draw_prompts(setup: OnlineSetup, position: Position) -> tuple[np.ndarray, int]:
    """The next prompts that are not retired, and the place after them.

    Once some are retired no prompt comes twice: the generation batch ends where it would, and so
    shrinks when fewer are left than it holds. The epochs stay whole: the prompt that ended a batch
    is the first of the next one. None when all are retired, or when the others have all been asked
    for the training batch that is being filled and it has groups: asking them again would fill it
    with few prompts, so it ends with these.
    """
    wanted = setup.config.rollout.prompts_per_batch or setup.config.training.batch_size
    if not position.retired:
        return setup.prompts.indices(position.place, wanted), position.place + wanted
    count, place, tally = setup.prompts.num_examples, position.place, position.tally
    left = np.ones(count, bool)
    left[list(position.retired)] = False
    found_groups = tally.get("data/groups_carried", 0.0) + tally.get("data/groups_kept", 0.0)
    if found_groups and tally.get("data/groups_generated", 0.0) >= left.sum():
        return np.zeros(0, np.int64), place
    drawn, parts = np.zeros(count, bool), [np.zeros(0, np.int64)]
    while wanted and left.any():
        epoch, within = divmod(place, count)
        order = setup.prompts.order(epoch)[within:]
        candidates = np.flatnonzero(left[order])[:wanted]
        repeated = np.flatnonzero(drawn[order[candidates]])
        found = order[candidates[: repeated[0]] if len(repeated) else candidates]
        drawn[found] = True
        parts.append(found)
        wanted -= len(found)
        if len(repeated):
            place += int(candidates[repeated[0]])
            break
        place += int(candidates[-1]) + 1 if not wanted else len(order)
    return np.concatenate(parts), place


def generate_groups(
    setup: OnlineSetup, params: Params, indices: np.ndarray, *, draw: int, step: int
) -> Batch:
    """One generation batch: completions of some prompts, with their rewards."""
    rollout_config, began = setup.config.rollout, time.perf_counter()
    prompts = setup.prompts.take(indices)
    sampling = SamplingParams(
        setup.config.algorithm.temperature,
        rollout_config.top_p,
        rollout_config.top_k,
        rollout_config.min_p,
    )
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(setup.config.seed), 3), draw)
    rollout, stats = setup.sample(params, prompts, key, sampling)
    generated = time.perf_counter()
    grades = setup.grader.grade(prompts, rollout)
    graded = time.perf_counter()
    setup.grader.check(prompts, grades)
    groups = from_rollout(
        rollout,
        prompt=indices,
        prompt_length=prompts.lengths,
        width=setup.width,
        rewards=grades.total,
        parts=grades.parts,
        step=step,
    )
    tally = {
        "data/generation_batches": 1.0,
        "data/groups_generated": float(groups.size),
        "tokens": float(stats.tokens),
        "slot_steps": float(stats.slot_steps),
        "time/generate": generated - began,
        "time/reward": graded - generated,
    }
    for index, name in enumerate(setup.grader.names):
        part = groups.parts[..., index]
        tally |= {
            f"sum/{name}": float(np.nansum(part)),
            f"count/{name}": float((~np.isnan(part)).sum()),
        }
    tally |= {f"rewards/failed/{name}": float(count) for name, count in grades.failures.items()}
    for name, value in (grades.scores.metrics if grades.scores is not None else {}).items():
        tally |= {f"sum/{name}": value, f"count/{name}": 1.0}
    return Batch(groups, tally, sample_columns(setup, prompts.prompts, grades, groups))


class Filtered(NamedTuple):
    """What dynamic sampling makes of the groups of a generation batch."""

    keep: np.ndarray
    """bool [N]."""
    retired: tuple[int, ...]
    """All prompts retired by now."""
    unjudged: int
    """Groups that are graded, of which nothing says what is right."""
    tally: dict[str, float]


def filter_groups(
    setup: OnlineSetup, groups: Groups, tasks: Tasks, retired: tuple[int, ...]
) -> Filtered:
    """Which groups to keep: with dynamic sampling those with a right and a wrong answer among what
    is graded and judged."""
    dynamic, algorithm = dynamic_sampling(setup), setup.config.algorithm
    right, judged = verdict = setup.grader.correct(groups.rewards, groups.parts, tasks)
    graded = ~np.isnan(groups.rewards)
    valid = judged & graded
    count, hits = valid.sum(1), (right & valid).sum(1)
    keep = (hits > 0) & (hits < count) if dynamic is not None else np.ones(groups.size, bool)
    if isinstance(algorithm, DAPOConfig) and algorithm.retire_pass_rate is not None:
        solved = (count == setup.group_size) & (hits >= algorithm.retire_pass_rate * count)
        retired = tuple(sorted({*retired, *groups.prompt[solved].tolist()}))
    unjudged = graded.any(1) & (count == 0)
    return Filtered(keep, retired, int(unjudged.sum()), tally_of(verdict, keep, valid, unjudged))


def tally_of(
    verdict: Verdict, keep: np.ndarray, valid: np.ndarray, unjudged: np.ndarray
) -> dict[str, float]:
    """Counts of a generation batch: of its groups [N], and of the completions judged in them [N,
    G]."""
    count, hits = valid.sum(1), (verdict.right & valid).sum(1)
    return {
        "data/groups_kept": float(keep.sum()),
        "data/groups_all_right": float(((hits == count) & (hits > 0)).sum()),
        "data/groups_all_wrong": float(((hits == 0) & (count > 0)).sum()),
        "data/groups_unjudged": float(unjudged.sum()),
        "data/groups_ungraded": float(((count == 0) & ~unjudged).sum()),
        "right": float(verdict.right.sum()),
        "judged": float(verdict.judged.sum()),
    }


def collection_metrics(
    setup: OnlineSetup, position: Position, rest: Groups, trained: int
) -> dict[str, float]:
    """What filling a batch cost, from the sums over its generation batches."""
    tally = position.tally
    generated = tally.get("data/groups_generated", 0.0)
    metrics = {
        name: value
        for name, value in tally.items()
        if name.startswith(("data/", "rewards/", "time/"))
    }
    metrics |= {
        "data/groups_trained": float(trained),
        "data/groups_left": float(rest.size),
        "data/epoch": position.place / setup.prompts.num_examples,
    }
    if position.skipped:
        metrics["data/steps_skipped"] = float(position.skipped)
    if position.retired:
        metrics["data/prompts_retired"] = float(len(position.retired))
    if generated:
        metrics |= {
            "data/sampling_waste": 1.0 - tally["data/groups_kept"] / generated,
            "sampler/utilisation": tally["tokens"] / max(tally["slot_steps"], 1.0),
            "sampler/tokens_per_second": tally["tokens"] / max(tally["time/generate"], 1e-9),
        }
        if setup.grader.judge.says and tally["judged"]:
            metrics["data/accuracy"] = tally["right"] / tally["judged"]
        counts = {
            name.removeprefix("count/"): count
            for name, count in tally.items()
            if name.startswith("count/")
        }
        metrics |= {
            f"rewards/{name}": tally[f"sum/{name}"] / count
            for name, count in counts.items()
            if count
        }
    return metrics


def sample_columns(
    setup: OnlineSetup, prompts: list[Any], grades: Any, groups: Groups
) -> dict[str, list[Any]]:
    """Completions as columns for the files and the log."""
    size = groups.rewards.shape[1]
    shown = [content_of(prompt) for prompt in prompts for _ in range(size)]
    columns: dict[str, list[Any]] = {
        "prompt_index": np.repeat(groups.prompt, size).tolist(),
        "prompt": shown,
        "completion": list(grades.texts),
        "reward": groups.rewards.reshape(-1).tolist(),
    }
    columns |= {
        name: groups.parts[..., index].reshape(-1).tolist()
        for index, name in enumerate(setup.grader.names)
    }
    columns["tokens"] = (groups.length - groups.prompt_length[:, None]).reshape(-1).tolist()
    columns["truncated"] = groups.truncated.reshape(-1).tolist()
    return columns | (grades.scores.extra if grades.scores is not None else {})


def recorded(
    setup: OnlineSetup, batch: Batch, keep: np.ndarray, *, draw: int, step: int
) -> dict[str, list[Any]]:
    """The columns of a generation batch with what the run made of it."""
    size, rows = setup.group_size, batch.groups.rewards.size
    return batch.samples | {
        "step": [step + 1] * rows,
        "split": ["train"] * rows,
        "sample": [row % size for row in range(rows)],
        "kept": np.repeat(keep, size).tolist(),
        "generation_batch": [draw] * rows,
    }
