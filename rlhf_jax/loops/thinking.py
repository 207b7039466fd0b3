"""Prompts whose rendering opens a block ``<think>``: their completions start inside it."""

import numpy as np

from rlhf_jax.data import FastTokenizer, PromptBatch
from rlhf_jax.rewards.answers import opens_reasoning

_TAIL = 16
"""Last tokens of a prompt in which an open tag is looked for."""


def opened_by_prompt(tokenizer: FastTokenizer, prompts: PromptBatch) -> np.ndarray:
    """Which prompts, as the chat template rendered them, end inside a block ``<think>``: bool
    [P]."""
    tails = [
        tokenizer.decode(row[max(0, length - _TAIL) : length].tolist())
        for row, length in zip(np.asarray(prompts.tokens), np.asarray(prompts.lengths), strict=True)
    ]
    return np.array([opens_reasoning(tails, {}, i) for i in range(len(tails))], bool)
