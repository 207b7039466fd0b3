"""What rendered prompts and special tokens do to rewards that look for tags such as ``<think>``."""

import logging
import re
from collections.abc import Sequence

import numpy as np

from rlhf_jax.data import FastTokenizer, PromptBatch
from rlhf_jax.rewards import RewardConfig
from rlhf_jax.rewards.answers import opens_reasoning

_log = logging.getLogger(__name__)
_TAIL = 16
"""Last tokens of a prompt in which an open tag is looked for."""
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def opened_by_prompt(tokenizer: FastTokenizer, prompts: PromptBatch) -> np.ndarray:
    """Which prompts, as the chat template rendered them, end inside a block ``<think>``: bool
    [P]."""
    tails = [
        tokenizer.decode(row[max(0, length - _TAIL) : length].tolist())
        for row, length in zip(np.asarray(prompts.tokens), np.asarray(prompts.lengths), strict=True)
    ]
    return np.array([opens_reasoning(tails, {}, i) for i in range(len(tails))], bool)


def warn_of_lost_tags(tokenizer: FastTokenizer, rewards: Sequence[RewardConfig]) -> None:
    """Warns when a reward asks for text that is a special token: completions are decoded without
    those, it cannot be seen."""
    lost = [tag for tag in special_tokens(tokenizer) if tag]
    for reward in rewards:
        if reward.function == "think_format":
            wanted: tuple[str, ...] = _TAGS if reward.options.get("answer") else _TAGS[:2]
        elif reward.function == "format":
            pattern = re.sub(r"\\(.)", r"\1", str(reward.options.get("pattern", "")))
            wanted = tuple(tag for tag in lost if tag in pattern)
        else:
            continue
        if unseen := [tag for tag in wanted if tag in lost]:
            _log.warning(
                "reward %r looks for %s, which this tokenizer has as a special token: completions are graded without special "
                "tokens, so it is never seen (add it as an ordinary token, or use other tags)",
                reward.label,
                ", ".join(unseen),
            )


def special_tokens(tokenizer: FastTokenizer) -> list[str]:
    """Texts of the tokens that `decode(.., skip_special_tokens=True)` drops."""
    return [token.content for token in tokenizer.backend.get_added_tokens_decoder().values() if token.special]
