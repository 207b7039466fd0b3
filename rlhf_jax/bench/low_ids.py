"""Reward of the online comparisons: share of token ids below half of `VOCAB`."""

import json
import pathlib
from typing import Any

VOCAB = 8192
"""Of the model that all comparisons share (`inputs.MODEL`)."""


def vocab_size(model: pathlib.Path) -> int:
    """Of a Hugging Face folder."""
    return json.loads((model / "config.json").read_text())["vocab_size"]


def low_ids(
    prompts: list[Any], completions: list[Any], completion_ids: list[list[int]], **columns: Any
) -> list[float]:
    """Reward function with TRL's signature.

    Args:
      prompts: not read.
      completions: not read.
      completion_ids: one list per completion.
      columns: not read.

    Returns:
      One number in [0, 1] per completion.
    """
    return [sum(token < VOCAB // 2 for token in ids) / len(ids) for ids in completion_ids]
