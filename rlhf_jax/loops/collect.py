"""Filling a training batch: prompts are drawn, completed and graded until there are enough groups (DAPO's dynamic sampling)."""

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax.algorithms import DAPOConfig
from rlhf_jax.loops.errors import TrainingError
from rlhf_jax.loops.groups import Groups, from_rollout, join
from rlhf_jax.loops.online_setup import OnlineSetup
from rlhf_jax.rollout import SamplingParams
from rlhf_jax.types import Params

_log = logging.getLogger(__name__)


class Position(NamedTuple):
    """Where a run is in its prompts, and what the batch being filled has cost so far. JSON can hold it."""

    place: int = 0
    """Prompts passed, over all epochs."""
    draws: int = 0
    """Generation batches made: numbers their random keys."""
    tally: dict[str, float] = {}
    """Sums over the generation batches of the batch being filled."""
    retired: tuple[int, ...] = ()
    """Prompts that are solved often enough and not asked again."""


class Collected(NamedTuple):
    """What `collect` brings back."""

    groups: Groups | None
    """A full training batch (filled up with empty groups at the cap); None: stopped, or every prompt is retired."""
    pending: Groups
    """Carried over."""
    position: Position
    metrics: dict[str, float]
    samples: dict[str, list[Any]]
    """The completions generated last, as columns."""


class Batch(NamedTuple):
    """One generation batch, graded."""

    groups: Groups
    tally: dict[str, float]
    samples: dict[str, list[Any]]


def collect(
    setup: OnlineSetup, params: Params, pending: Groups, position: Position, *, step: int, stopped: Callable[[], bool]
) -> Collected:
    """Generates until a training batch is full.

    With dynamic sampling (arXiv:2503.14476 eq. 11) only groups with a right and a wrong answer count, judged before any penalty.
    Groups beyond the batch are carried over and are the first of the next one. `stopped` is asked between generation batches;
    what has been collected by then is in `pending`, nothing is lost.

    Args:
      setup: the run.
      params: the policy's parameters.
      pending: groups carried over.
      position: where the run is.
      step: training steps made so far.
      stopped: whether a signal asked to stop.

    Returns:
      A `Collected`.

    Raises:
      TrainingError: `max_generation_batches` were generated and the batch is not full, with on_cap=raise, or there is not one
        group to train on.
    """
    size, dynamic = setup.config.training.batch_size, dynamic_sampling(setup)
    tally = position.tally or {"data/groups_carried": float(pending.size)}
    position = position._replace(tally=tally)
    samples: dict[str, list[Any]] = {}
    while pending.size < size:
        if stopped():
            return Collected(None, pending, position, {}, samples)
        if dynamic is not None and position.tally.get("data/generation_batches", 0) >= dynamic.max_generation_batches:
            check_cap(dynamic, position.tally, pending.size, size)
            break
        indices, place = draw_prompts(setup, position)
        if not len(indices):
            if pending.size:
                break
            return Collected(None, pending, position, {}, samples)
        batch = generate_groups(setup, params, indices, draw=position.draws, step=step)
        kept, retired = filter_groups(setup, batch, position.retired)
        pending = join(pending, batch.groups.take(kept))
        added = batch.tally | {"data/groups_kept": float(kept.sum())}
        tally = {name: position.tally.get(name, 0.0) + added.get(name, 0.0) for name in position.tally | added}
        position, samples = Position(place, position.draws + 1, tally, retired), batch.samples
    batch_groups, rest = pending.take(slice(None, size)), pending.take(slice(size, None))
    metrics = collection_metrics(setup, position, rest, batch_groups.size)
    if batch_groups.size < size:
        batch_groups = join(batch_groups, setup.filler(size - batch_groups.size))
    return Collected(batch_groups, rest, position._replace(tally={}), metrics, samples)


def dynamic_sampling(setup: OnlineSetup) -> DAPOConfig | None:
    """The algorithm's options where it samples dynamically."""
    algorithm = setup.config.algorithm
    return algorithm if isinstance(algorithm, DAPOConfig) and algorithm.dynamic_sampling else None


def draw_prompts(setup: OnlineSetup, position: Position) -> tuple[np.ndarray, int]:
    """The next prompts that are not retired, and the place after them.

    Once some are retired no prompt comes twice: the generation batch ends where it would, and so shrinks when fewer are left
    than it holds. The epochs stay whole: the prompt that ended a batch is the first of the next one. None when all are
    retired, or when the others have all been asked for the training batch that is being filled and it has groups: asking them
    again would fill it with few prompts, so it ends with these.
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


def generate_groups(setup: OnlineSetup, params: Params, indices: np.ndarray, *, draw: int, step: int) -> Batch:
    """One generation batch: completions of some prompts, with their rewards."""
    rollout_config, began = setup.config.rollout, time.perf_counter()
    prompts = setup.prompts.take(indices)
    sampling = SamplingParams(
        setup.config.algorithm.temperature, rollout_config.top_p, rollout_config.top_k, rollout_config.min_p
    )
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(setup.config.seed), 3), draw)
    rollout, stats = setup.sample(params, prompts, key, sampling)
    generated = time.perf_counter()
    grades = setup.grader.grade(prompts, rollout)
    graded = time.perf_counter()
    groups = from_rollout(
        rollout,
        prompt=indices,
        prompt_length=prompts.lengths,
        width=setup.width,
        rewards=grades.total,
        parts=grades.parts,
        step=step,
    )
    valid, right = judged(setup, groups)
    tally = {
        "data/generation_batches": 1.0,
        "data/groups_generated": float(groups.size),
        "data/groups_all_right": float(((right == valid.sum(1)) & (right > 0)).sum()),
        "data/groups_all_wrong": float(((right == 0) & valid.any(1)).sum()),
        "data/groups_ungraded": float((~valid.any(1)).sum()),
        "right": float(right.sum()),
        "completions": float(valid.sum()),
        "tokens": float(stats.tokens),
        "slot_steps": float(stats.slot_steps),
        "time/generate": generated - began,
        "time/reward": graded - generated,
    }
    for index, name in enumerate(setup.grader.names):
        part = groups.parts[..., index]
        tally |= {f"sum/{name}": float(np.nansum(part)), f"count/{name}": float((~np.isnan(part)).sum())}
    tally |= {f"rewards/failed/{name}": float(count) for name, count in grades.failures.items()}
    return Batch(groups, tally, sample_columns(setup, prompts.prompts, grades, groups))


def filter_groups(setup: OnlineSetup, batch: Batch, retired: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """(which groups to keep, prompts retired by now)."""
    dynamic = dynamic_sampling(setup)
    algorithm, groups = setup.config.algorithm, batch.groups
    valid, right = judged(setup, groups)
    graded = valid.sum(1)
    keep = (right > 0) & (right < graded) if dynamic is not None else np.ones(groups.size, bool)
    if isinstance(algorithm, DAPOConfig) and algorithm.retire_pass_rate is not None:
        solved = (graded == setup.group_size) & (right >= algorithm.retire_pass_rate * graded)
        retired = tuple(sorted({*retired, *groups.prompt[solved].tolist()}))
    return keep, retired


def judged(setup: OnlineSetup, groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """(which completions were graded [N, G], also by the reward that says right or wrong; right ones of each group [N])."""
    valid = ~np.isnan(groups.rewards)
    if setup.grader.accuracy is not None:
        valid &= ~np.isnan(groups.parts[..., setup.grader.accuracy])
    return valid, (setup.grader.correct(groups.rewards, groups.parts) & valid).sum(1)


def check_cap(dynamic: DAPOConfig, tally: dict[str, float], found: int, wanted: int) -> None:
    """The policy at the cap of generation batches."""
    story = (
        f"after {dynamic.max_generation_batches} generation batches (algorithm.max_generation_batches) {found} of {wanted} "
        f"groups have a right and a wrong answer: of {tally['data/groups_generated']:.0f} generated, "
        f"{tally['data/groups_all_wrong']:.0f} are all wrong and {tally['data/groups_all_right']:.0f} all right"
    )
    if dynamic.on_cap == "raise" or not found:
        raise TrainingError(f"{story}; use easier or harder prompts, a larger algorithm.group_size, or dynamic_sampling=false")
    _log.warning("%s; training on those", story)


def collection_metrics(setup: OnlineSetup, position: Position, rest: Groups, trained: int) -> dict[str, float]:
    """What filling a batch cost, from the sums over its generation batches."""
    tally = position.tally
    generated = tally.get("data/groups_generated", 0.0)
    metrics = {name: value for name, value in tally.items() if name.startswith(("data/", "rewards/", "time/"))}
    metrics |= {
        "data/groups_trained": float(trained),
        "data/groups_left": float(rest.size),
        "data/epoch": position.place / setup.prompts.num_examples,
    }
    if position.retired:
        metrics["data/prompts_retired"] = float(len(position.retired))
    if generated:
        metrics |= {
            "data/sampling_waste": 1.0 - tally["data/groups_kept"] / generated,
            "sampler/utilisation": tally["tokens"] / max(tally["slot_steps"], 1.0),
            "sampler/tokens_per_second": tally["tokens"] / max(tally["time/generate"], 1e-9),
        }
        if setup.grader.accuracy is not None:
            metrics["data/accuracy"] = tally["right"] / max(tally["completions"], 1.0)
        for name in setup.grader.names:
            metrics[f"rewards/{name}"] = tally[f"sum/{name}"] / max(tally[f"count/{name}"], 1.0)
    return metrics


def sample_columns(setup: OnlineSetup, prompts: list[Any], grades: Any, groups: Groups) -> dict[str, list[Any]]:
    """Completions as columns for the files and the log."""
    size = groups.rewards.shape[1]
    shown = [prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in prompts for _ in range(size)]
    columns: dict[str, list[Any]] = {
        "prompt_index": np.repeat(groups.prompt, size).tolist(),
        "prompt": shown,
        "completion": list(grades.texts),
        "reward": _numbers(groups.rewards),
    }
    columns |= {name: _numbers(groups.parts[..., index]) for index, name in enumerate(setup.grader.names)}
    columns["tokens"] = (groups.length - groups.prompt_length[:, None]).reshape(-1).tolist()
    columns["truncated"] = groups.truncated.reshape(-1).tolist()
    return columns


def _numbers(values: np.ndarray) -> list[float | None]:
    """NaN as None: JSON has no NaN."""
    return [None if np.isnan(value) else float(value) for value in values.reshape(-1)]
