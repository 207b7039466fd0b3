"""What a model reached on each held-out prompt, for intervals that know of the prompts too."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

ByPrompt = dict[str, list[float]]
"""Metric -> a number for each held-out prompt, in storage order; NaN: nothing could be judged."""


def means_by_prompt(
    columns: Mapping[str, Sequence[Any]],
    right: Sequence[bool | None],
    rewards: Sequence[str],
    *,
    samples: int,
    size: int,
) -> ByPrompt:
    """The parts of an evaluation's metrics: their mean over prompts is the metric, as long as
    everything was judged.

    Args:
      columns: of completions, those of one prompt behind each other; a column per reward.
      right: whether each is right; None: nobody says.
      rewards: names of all rewards.
      samples: k of the metrics' names; 0: they are those of greedy completions.
      size: completions of each prompt.

    Returns:
      accuracy/mean@k (accuracy/greedy without samples) where a reward says right or wrong, and
      rewards/NAME_sampled (rewards/NAME) of every reward.
    """
    suffix = "_sampled" if samples else ""
    parts: dict[str, Sequence[Any]] = {f"rewards/{name}{suffix}": columns[name] for name in rewards}
    if any(verdict is not None for verdict in right):
        parts[f"accuracy/mean@{samples}" if samples else "accuracy/greedy"] = right
    return {name: grouped_means(values, size) for name, values in parts.items()}


def grouped_means(values: Sequence[Any], size: int) -> list[float]:
    """Means of `size` values at a time, of what is known (neither None nor NaN)."""
    rows = np.array([np.nan if value is None else value for value in values], np.float64)
    rows = rows.reshape(-1, size)
    known = np.isfinite(rows)
    counts = known.sum(axis=1)
    sums = np.where(known, rows, 0.0).sum(axis=1)
    return [
        float(total / count) if count else float("nan")
        for total, count in zip(sums, counts, strict=True)
    ]
