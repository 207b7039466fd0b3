"""Groups of completions on the host: what is sampled, graded, filtered, carried over and turned
into batches."""

from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.types import PolicyBatch, Rollout


class Groups(NamedTuple):
    """N groups of G completions. Every array leads with N; T is the same in a whole run."""

    prompt: np.ndarray
    """int64 [N]: which prompt of the training split."""
    prompt_length: np.ndarray
    """int32 [N]."""
    tokens: np.ndarray
    """int32 [N, G, T]: prompt, completion, padding."""
    length: np.ndarray
    """int32 [N, G]: prompt and completion."""
    logps: np.ndarray
    """float32 [N, G, T], by the sampler."""
    truncated: np.ndarray
    """bool [N, G]."""
    rewards: np.ndarray
    """float32 [N, G], the weighted sum; NaN = could not be graded."""
    parts: np.ndarray
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


def filler_groups(count: int, *, group_size: int, width: int, num_rewards: int) -> Groups:
    """Groups that only complete a shape: no completion, no grade, and therefore no weight in any
    loss."""
    shape = (count, group_size)
    return Groups(
        prompt=np.full(count, -1, np.int64),
        prompt_length=np.zeros(count, np.int32),
        tokens=np.zeros((*shape, width), np.int32),
        length=np.zeros(shape, np.int32),
        logps=np.zeros((*shape, width), np.float32),
        truncated=np.zeros(shape, bool),
        rewards=np.full(shape, np.nan, np.float32),
        parts=np.full((*shape, num_rewards), np.nan, np.float32),
        step=np.full(count, -1, np.int32),
    )


def join(*parts: Groups) -> Groups:
    """Groups one after another."""
    return Groups(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def from_rollout(
    rollout: Rollout,
    *,
    prompt: np.ndarray,
    prompt_length: np.ndarray,
    width: int,
    rewards: np.ndarray,
    parts: np.ndarray,
    step: int,
) -> Groups:
    """Graded completions as groups.

    Args:
      rollout: NumPy arrays of N * G rows.
      prompt: [N].
      prompt_length: [N].
      width: T of the run, at least the rollout's.
      rewards: [N * G].
      parts: [N * G, R].
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
        logps=grouped(rollout.logps),
        truncated=grouped(rollout.truncated),
        rewards=grouped(rewards),
        parts=np.asarray(parts, np.float32).reshape(count, group_size, -1),
        step=np.full(count, step, np.int32),
    )


def widths(longest: int, *, multiple: int = 16, count: int = 2) -> tuple[int, ...]:
    """Row widths that batches are cut to: `longest`, its half, ... in multiples; few, as each is a
    shape to compile."""
    sizes = {min(longest, -(-(longest >> i) // multiple) * multiple) for i in range(count)}
    return tuple(sorted(sizes))


def make_batch(
    groups: Groups, *, total_widths: tuple[int, ...], scored_widths: tuple[int, ...], step: int
) -> PolicyBatch:
    """A training batch of whole groups, cut to the narrowest width that holds it.

    Args:
      groups: N of them.
      total_widths: choices of T, ascending.
      scored_widths: choices of S, ascending.
      step: the training step; groups of an earlier one are not on the policy.

    Returns:
      `PolicyBatch` of N * G rows, NumPy leaves.
    """
    rows = groups.size * groups.rewards.shape[1]
    length, prompt_length = (
        groups.length.reshape(rows),
        np.repeat(groups.prompt_length, groups.rewards.shape[1]),
    )
    width = next(w for w in total_widths if w >= length.max(initial=1))
    completion = np.maximum(length - prompt_length, 0)
    scored_width = min(width, next(w for w in scored_widths if w >= completion.max(initial=1)))
    position = np.arange(width)[None, :]
    mask = position < length[:, None]
    columns = prompt_length[:, None] + np.arange(scored_width)[None, :]
    fields: dict[str, Any] = {
        "tokens": groups.tokens.reshape(rows, -1)[:, :width],
        "mask": mask,
        "completion_mask": mask & (position >= prompt_length[:, None]),
        "rewards": groups.rewards.reshape(rows),
        "truncated": groups.truncated.reshape(rows),
        "scored": np.where(columns < length[:, None], columns, -1).astype(np.int32),
        "sampler_logps": groups.logps.reshape(rows, -1)[:, :width],
        "on_policy": np.repeat(groups.step == step, groups.rewards.shape[1]),
    }
    return PolicyBatch(**fields)
