"""Prompts that open <think>."""

import numpy as np
from tokenizers import AddedToken

from rlhf_jax.data import PromptBatch
from rlhf_jax.data.tokenizer import byte_tokenizer
from rlhf_jax.loops.thinking import opened_by_prompt


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


def test_a_special_token_opens_it_too():
    tokenizer = byte_tokenizer()
    tokenizer.backend.add_special_tokens([AddedToken("<think>", special=True)])
    assert opened_by_prompt(tokenizer, _batch(tokenizer, ["a<think>"])).tolist() == [True]
