"""Prompts that open <think>."""

import types

import numpy as np
from tokenizers import AddedToken, Tokenizer

from rlhf_jax.data import FastTokenizer, PromptBatch, byte_tokenizer
from rlhf_jax.loops.grading import RewardGrader, opened_by_prompt
from rlhf_jax.rewards import PoolConfig, RewardConfig, TrainerState
from rlhf_jax.rewards.judging import make_judge
from rlhf_jax.rollout import GenerationStats, Sampled
from rlhf_jax.types import Rollout


def _batch(tokenizer, texts):
    rows = [tokenizer.encode(text) for text in texts]
    tokens = np.full((len(rows), max(map(len, rows)) + 3), tokenizer.pad_id, np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    return PromptBatch(
        np.arange(len(rows)), tokens, np.array([len(ids) for ids in rows]), list(texts), {}
    )


def test_the_rendered_prompt_tells():
    tokenizer = byte_tokenizer()
    texts = [
        "question<think>\n",
        "question",
        "<think></think>\n\n",
        "a <think> b",
        "x" * 40 + "<think>",
    ]
    assert opened_by_prompt(tokenizer, _batch(tokenizer, texts)).tolist() == [
        True,
        False,
        False,
        False,
        True,
    ]


def test_a_special_token_opens_it_too():
    backend = Tokenizer.from_str(byte_tokenizer().backend.to_str())  # the built-in one is shared
    backend.add_special_tokens([AddedToken("<think>", special=True)])
    tokenizer = FastTokenizer(backend, {"eos_token": "<|endoftext|>"})
    assert opened_by_prompt(tokenizer, _batch(tokenizer, ["a<think>"])).tolist() == [True]


def test_a_grader_tells_its_rewards_what_the_template_opened():
    tokenizer = byte_tokenizer()
    rewards = (RewardConfig(function="think_format"), RewardConfig(function="exact_match"))
    prompts = _batch(tokenizer, ["<user>q<think>\n", "<user>q"])
    prompts = prompts._replace(
        prompts=[[{"role": "user", "content": "q"}]] * 2, columns={"answer": ["4", "4"]}
    )
    texts = [
        "2 and 2</think> The answer is 4.",
        "The answer is 4.",
        "<think>2</think> 4",
        "The answer is 4.",
    ]
    rows = [[*tokenizer.encode(text), tokenizer.eos_id] for text in texts]
    tokens = np.full((4, max(map(len, rows))), tokenizer.pad_id, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for i, ids in enumerate(rows):
        tokens[i, : len(ids)], mask[i, : len(ids)] = ids, True
    rollout = Rollout(tokens, mask, mask, np.zeros(tokens.shape, np.float32), np.zeros(4, bool))
    sampled = Sampled(rollout, GenerationStats(0, 0, 1.0, 0.0))
    judge = make_judge(rewards, None)
    seen = []
    with RewardGrader(
        rewards, PoolConfig(), tokenizer, models={}, judge=judge, held_out=judge
    ) as grader:
        grader._watch = types.SimpleNamespace(
            note=lambda total, scores, texts, columns: seen.append(columns)
        )
        grades, again = (
            grader(prompts, sampled, state=TrainerState(), training=training)
            for training in (True, False)
        )
    assert grades.opened.tolist() == [True, True, False, False]
    assert grades.per_reward.tolist() == [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    assert again.per_reward.tolist() == grades.per_reward.tolist()
    # what warnings read answers by; an evaluation is not looked at
    assert seen == [{"answer": ["4"] * 4, "prompt_opens_think": [True, True, False, False]}]
