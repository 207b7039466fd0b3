"""Prompts with known answers as arrays, and a reward that compares tokens: what a fused run learns
from."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rlhf_jax.data import FastTokenizer, PromptBatch
from rlhf_jax.fields import documented
from rlhf_jax.fused.rollouts import PromptSet
from rlhf_jax.types import Rollout


@documented
class Answers(NamedTuple):
    """The one right completion of every prompt."""

    tokens: Int[Array, "N Ta"]
    """EOS included, then padding."""
    lengths: Int[Array, " N"]
    """Tokens of each, EOS included."""


def make_prompt_set(
    batch: PromptBatch, tokenizer: FastTokenizer, *, column: str = "answer"
) -> PromptSet:
    """Prompts of a loader with their answers as tokens.

    Args:
      batch: from `PromptLoader.take`.
      tokenizer: the one of the prompts.
      column: of the data that holds the answer's text.

    Returns:
      The prompts; `answers` is an `Answers`.

    Raises:
      ValueError: there is no such column.
    """
    if column not in batch.columns:
        raise ValueError(
            f"column={column!r} is not in the data: columns are "
            f"{', '.join(sorted(batch.columns)) or 'none'}"
        )
    return PromptSet(
        jnp.asarray(batch.tokens),
        jnp.asarray(batch.lengths),
        encode_answers(batch.columns[column], tokenizer),
    )


def encode_answers(answers: Sequence[Any], tokenizer: FastTokenizer) -> Answers:
    """Texts (or numbers) as completions: tokens and EOS.

    Args:
      answers: one a prompt.
      tokenizer: turns them into tokens.

    Returns:
      Arrays of N rows.
    """
    rows = [
        [*ids, tokenizer.eos_id]
        for ids in tokenizer.encode_batch([str(answer) for answer in answers])
    ]
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens = np.full((len(rows), int(lengths.max())), tokenizer.pad_id, np.int32)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = row
    return Answers(jnp.asarray(tokens), jnp.asarray(lengths))


def exact_answer(rollout: Rollout, answers: Answers) -> Float[Array, " B"]:
    """1 for a completion that is the answer, token for token and ended by EOS; else 0.

    Args:
      rollout: completions.
      answers: of their prompts, one a row.
    """
    place = jnp.cumsum(rollout.completion_mask, axis=1) - 1
    wanted = jnp.take_along_axis(
        answers.tokens, jnp.clip(place, 0, answers.tokens.shape[1] - 1), axis=1
    )
    agrees = jnp.all((rollout.tokens == wanted) | ~rollout.completion_mask, axis=1)
    return (agrees & (jnp.sum(rollout.completion_mask, axis=1) == answers.lengths)).astype(
        jnp.float32
    )
