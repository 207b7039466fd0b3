"""Prompts that open <think>, and tags that are special tokens."""

import logging

import numpy as np
from tokenizers import AddedToken

from rlhf_jax.data import PromptBatch
from rlhf_jax.data.tokenizer import byte_tokenizer
from rlhf_jax.loops.thinking import opened_by_prompt, warn_of_lost_tags
from rlhf_jax.rewards import RewardConfig


def _batch(tokenizer, texts):
    rows = [tokenizer.encode(text) for text in texts]
    tokens = np.full((len(rows), max(map(len, rows)) + 3), tokenizer.pad_id, np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    return PromptBatch(np.arange(len(rows)), tokens, np.array([len(ids) for ids in rows]), list(texts), {})


def test_the_rendered_prompt_tells():
    tokenizer = byte_tokenizer()
    texts = ["question<think>\n", "question", "<think></think>\n\n", "a <think> b", "x" * 40 + "<think>"]
    assert opened_by_prompt(tokenizer, _batch(tokenizer, texts)).tolist() == [True, False, False, False, True]


def test_tags_that_are_special_tokens_are_named(caplog):
    tokenizer = byte_tokenizer()
    rewards = [
        RewardConfig(function="think_format"),
        RewardConfig(function="format", name="mine", options={"pattern": r".*\</think\>.*"}),
        RewardConfig(function="length", options={"max_len": 5}),
    ]
    with caplog.at_level(logging.WARNING):
        warn_of_lost_tags(tokenizer, rewards)
        assert not caplog.records
        tokenizer.backend.add_special_tokens([AddedToken("<think>", special=True), AddedToken("</think>", special=True)])
        assert opened_by_prompt(tokenizer, _batch(tokenizer, ["a<think>"])).tolist() == [True]
        warn_of_lost_tags(tokenizer, rewards)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "'think_format' looks for <think>, </think>" in messages[0] and "'mine' looks for </think>" in messages[1]
