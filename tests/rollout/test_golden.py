"""Greedy completions equal transformers' `generate`, token for token (make_golden.py)."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest

from rlhf_jax.models import load_pretrained
from rlhf_jax.rollout import SamplingParams, generate
from tests.models.tiny import CASES, FAMILY_NAMES
from tests.models.tiny import GOLDEN as MODELS

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden.json").read_text())
ONE_EACH = (
    "gemma2",
    "gemma3_text",
    "gpt2",
    "llama_llama3",
    "mistral",
    "phi3_partial",
    "qwen2_sliding",
    "qwen3",
)
FAST = ("gemma2", "qwen2_sliding")
"""One with all mechanisms of attention and one with the commonest; the others are slow-marked."""
NAMES = tuple(
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
    for name in sorted(GOLDEN["cases"])
)


def complete(name, layers, eos):
    case = GOLDEN["cases"][name]
    model, params = load_pretrained(MODELS / name, layers=layers)
    lengths = np.array([len(prompt) for prompt in case["prompts"]])
    # what stands in the padding is not read
    prompts = np.full((len(lengths), lengths.max()), 10**6, np.int32)
    for row, prompt in zip(prompts, case["prompts"], strict=True):
        row[: len(prompt)] = prompt
    options = {
        "sampling": SamplingParams(0.0),
        "max_new_tokens": GOLDEN["new_tokens"],
        "eos_id": eos,
        "pad_id": 0,
        "chunk": 4,
    }
    out = jax.jit(functools.partial(generate, model, **options))(
        params, prompts, lengths, jax.random.key(0)
    )
    tokens, mask = np.asarray(out.tokens), np.asarray(out.completion_mask)
    return out, [tokens[row][mask[row]].tolist() for row in range(len(lengths))]


def test_every_family_and_the_versions_are_recorded():
    types = {
        json.loads((MODELS / name / "config.json").read_text())["model_type"] for name in ONE_EACH
    }
    assert types == set(FAMILY_NAMES) and set(ONE_EACH) <= set(GOLDEN["cases"]) <= set(CASES)
    assert set(GOLDEN["versions"]) == {"python", "torch", "transformers"}


@pytest.mark.parametrize("name", NAMES)
def test_greedy_equals_transformers(name):
    out, completions = complete(name, "scan" if name.startswith("gemma3") else "auto", ())
    assert completions == GOLDEN["cases"][name]["completions"]
    assert np.asarray(out.truncated).all()


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "llama_yarn" else pytest.mark.slow) for n in GOLDEN["cases"]],
)
def test_stops_at_eos_as_transformers_does(name):
    case = GOLDEN["cases"][name]
    out, completions = complete(name, "auto", tuple(case["eos"]))
    assert completions == case["stopped"]
    assert np.asarray(out.truncated).tolist() == [
        answer[-1] not in case["eos"] for answer in completions
    ]
