"""What ends the completions of a run, and what of them the rewards see."""

import logging
from collections.abc import Iterator
from typing import Any

from rlhf_jax.config import Config, MeasureConfig
from rlhf_jax.data import FastTokenizer, read_generation
from rlhf_jax.models import local_folder
from rlhf_jax.rewards import RewardConfig

_log = logging.getLogger(__name__)


def with_run_stops(tokenizer: FastTokenizer, config: Config | MeasureConfig) -> FastTokenizer:
    """The tokenizer with every stop of a run: its own, those of the model's files, and
    `rollout.stop`.

    Args:
      tokenizer: read from its folder, whose generation_config.json and config.json are known to it.
      config: the run; a `model.path` other than `tokenizer` has files of its own.
    """
    path = config.model.path
    is_other = path is not None and config.tokenizer not in (None, path)
    generation = read_generation(local_folder(path)) if path is not None and is_other else {}
    tokenizer = tokenizer.with_stops(config.rollout.stop, generation=generation)
    if len(tokenizer.stop_ids) > 1 or tokenizer.stop_strings:
        tokens = [tokenizer.backend.id_to_token(token) for token in tokenizer.stop_ids]
        _log.info(
            "answers end at the tokens %s and the texts %s", tokens, list(tokenizer.stop_strings)
        )
    return tokenizer


def warn_of_hidden_tags(config: Config, tokenizer: FastTokenizer) -> None:
    """Warns where a format reward looks for a tag that is a special token: the text that rewards
    see does not have it."""
    if not config.rollout.skip_special_tokens:
        return
    tokens = tokenizer.backend.get_added_tokens_decoder()
    special = {
        token.content
        for number, token in tokens.items()
        if token.special and number not in tokenizer.stop_ids
    }
    for reward in config.rewards:
        wanted = " ".join(wanted_texts(reward))
        hidden = sorted(text for text in special if text in wanted)
        if hidden:
            _log.warning(
                "the reward %r looks for %s, special tokens of the tokenizer, which are left out "
                "of the text that rewards see; "
                "set rollout.skip_special_tokens=false to leave them in",
                reward.label,
                ", ".join(repr(text) for text in hidden),
            )


def wanted_texts(reward: RewardConfig) -> Iterator[str]:
    """Texts that a reward looks for, as far as its function and its options say: tags, and patterns
    without backslashes."""
    if reward.function == "think_format":
        yield from ("<think>", "</think>")
        if reward.options.get("answer"):
            yield from ("<answer>", "</answer>")
    waiting: list[Any] = list(reward.options.values())
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value.replace("\\", "")
        elif isinstance(value, list | tuple):
            waiting += value
