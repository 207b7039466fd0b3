"""Groups of completions on the host, and the state of a run, of which they are a part.

Groups are sampled, graded, filtered, carried over and turned into batches.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.data.batching import scored_columns
from rlhf_jax.io.completions import GroupId
from rlhf_jax.rewards.judging import Tasks
from rlhf_jax.training import TrainState
from rlhf_jax.types import PolicyBatch, Rollout, Room


class Groups(NamedTuple):
    """N groups of G completions. Every array leads with N; T is the same in a whole run."""

    prompt: np.ndarray
    """int64 [N]: which prompt of the training split."""
    prompt_length: np.ndarray
    """int32 [N]."""
    tokens: np.ndarray
    """int32 [N, G, T]: prompt, completion, padding."""
    length: np.ndarray
    """int32 [N, G]: of all that is present."""
    completion_mask: np.ndarray
    """bool [N, G, T]: chosen by the policy. What an environment answered in between is present and
    not chosen."""
    logps: np.ndarray
    """float32 [N, G, T], by the sampler."""
    truncated: np.ndarray
    """bool [N, G]."""
    rewards: np.ndarray
    """float32 [N, G], the weighted sum; NaN = could not be graded."""
    per_reward: np.ndarray
    """float32 [N, G, R]: each reward function's own value."""
    step: np.ndarray
    """int32 [N]: training step in which the group was sampled."""

    @property
    def size(self) -> int:
        """N."""
        return len(self.prompt)

    def take(self, index: Any) -> "Groups":
        """The groups that a slice, mask or list of numbers selects."""
        return Groups(*(x[index] for x in self))


class Cursor(NamedTuple):
    """Where a run is in its prompts, and what the batch being filled has cost so far. JSON can hold
    it."""

    passed: int = 0
    """Prompts passed, over all epochs: the place of the next one."""
    num_batches: int = 0
    """Generation batches made: numbers their random keys."""
    counters: dict[str, float] = {}
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
        return self._asdict() | {
            "retired": list(self.retired),
            "carried": [list(group) for group in self.carried],
            "tasks": dict(self.tasks),
        }

    @classmethod
    def of(cls, held: Mapping[str, Any]) -> "Cursor":
        """From what JSON held."""
        cursor = cls(**held)
        carried = tuple((int(batch), int(group)) for batch, group in cursor.carried)
        return cursor._replace(retired=tuple(cursor.retired), carried=carried)


class Rollouts(NamedTuple):
    """The sampling side of a run's state."""

    cursor: Cursor
    groups: Groups
    """Sampled, and not trained on yet."""


class RunState(NamedTuple):
    """Everything that changes while training."""

    train: TrainState
    step: int
    """Training steps made; a step online may be several updates."""
    rollouts: Rollouts | None = None
    """None: the run trains on data that is there."""


def empty_groups(count: int, *, group_size: int, width: int, num_rewards: int) -> Groups:
    """Groups that only complete a shape: no completion, no grade, and no weight in any loss."""
    shape = (count, group_size)
    return Groups(
        prompt=np.full(count, -1, np.int64),
        prompt_length=np.zeros(count, np.int32),
        tokens=np.zeros((*shape, width), np.int32),
        length=np.zeros(shape, np.int32),
        completion_mask=np.zeros((*shape, width), bool),
        logps=np.zeros((*shape, width), np.float32),
        truncated=np.zeros(shape, bool),
        rewards=np.full(shape, np.nan, np.float32),
        per_reward=np.full((*shape, num_rewards), np.nan, np.float32),
        step=np.full(count, -1, np.int32),
    )


def join(*several: Groups) -> Groups:
    """Groups one after another."""
    return Groups(*(np.concatenate(arrays) for arrays in zip(*several, strict=True)))


def from_rollout(
    rollout: Rollout,
    *,
    prompt: np.ndarray,
    prompt_length: np.ndarray,
    width: int,
    rewards: np.ndarray,
    per_reward: np.ndarray,
    step: int,
) -> Groups:
    """Graded completions as groups.

    Args:
      rollout: NumPy arrays of N * G rows.
      prompt: [N].
      prompt_length: [N].
      width: T of the run, at least the rollout's.
      rewards: [N * G].
      per_reward: [N * G, R].
      step: training step.
    """
    count = len(prompt)
    group_size = len(rewards) // count

    def grouped(x: Any) -> np.ndarray:
        x = np.asarray(x).reshape(count, group_size, *np.shape(x)[1:])
        return x if x.ndim < 3 else np.pad(x, ((0, 0), (0, 0), (0, width - x.shape[2])))

    return Groups(
        prompt=np.asarray(prompt, np.int64),
        prompt_length=np.asarray(prompt_length, np.int32),
        tokens=grouped(rollout.tokens),
        length=grouped(np.asarray(rollout.mask).sum(1).astype(np.int32)),
        completion_mask=grouped(rollout.completion_mask),
        logps=grouped(rollout.logps),
        truncated=grouped(rollout.truncated),
        rewards=grouped(rewards),
        per_reward=np.asarray(per_reward, np.float32).reshape(count, group_size, -1),
        step=np.full(count, step, np.int32),
    )


def widths(longest: int, *, multiple: int = 16, count: int = 2) -> tuple[int, ...]:
    """Row widths that batches are cut to: `longest`, its half, ... in multiples; few, as each is a
    shape to compile."""
    sizes = {min(longest, -(-(longest >> i) // multiple) * multiple) for i in range(count)}
    return tuple(sorted(sizes))


def make_batch(
    groups: Groups,
    *,
    total_widths: Sequence[int],
    scored_widths: Sequence[int],
    step: int,
    room: Room | None = None,
) -> PolicyBatch:
    """The batch of an update: group-major rows, cut to the shortest width that holds them.

    Args:
      groups: N of them.
      total_widths: widths of rows that are compiled, ascending; the last one holds any row.
      scored_widths: numbers of chosen tokens that are compiled, ascending.
      step: training step of the update: groups of an earlier one are off the policy.
      room: to pack the completions into; None: a row each.

    Returns:
      NumPy arrays of N * G rows.
    """
    rows = groups.rewards.size
    length = groups.length.reshape(rows)
    width = next(w for w in total_widths if w >= length.max(initial=1))
    completion_mask = groups.completion_mask.reshape(rows, -1)[:, :width]
    chosen = completion_mask.sum(axis=1).max(initial=1)
    scored_width = min(width, next(w for w in scored_widths if w >= chosen))
    fields: dict[str, Any] = {
        "tokens": groups.tokens.reshape(rows, -1)[:, :width],
        # What is padding follows from lengths alone: the pad token may be a real one.
        "mask": np.arange(width)[None, :] < length[:, None],
        "completion_mask": completion_mask,
        "rewards": groups.rewards.reshape(rows),
        "truncated": groups.truncated.reshape(rows),
        "scored": scored_columns(completion_mask, scored_width),
        "sampler_logps": groups.logps.reshape(rows, -1)[:, :width],
        "on_policy": np.repeat(groups.step == step, groups.rewards.shape[1]),
        "room": room,
    }
    return PolicyBatch(**fields)
