"""Rotary embedding: transformers' frequencies, what a rotation keeps, scalings by length."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import init_model, load_pretrained
from rlhf_jax.models.rope import (
    ROPE_TYPES,
    RopeConfig,
    apply_rope,
    inverse_frequencies,
    rope_tables,
)
from rlhf_jax.rollout import SamplingParams, generate
from tests.models.tiny import GOLDEN, noisy, ragged, tiny

STORED = json.loads((GOLDEN / "rope.json").read_text())


def test_every_type_is_stored():
    assert {case["rope"]["rope_type"] for case in STORED} == set(ROPE_TYPES)


@pytest.mark.parametrize(
    "case", STORED, ids=lambda case: f"{case['rope']['rope_type']}-{case['length']}"
)
def test_frequencies_equal_transformers(case):
    rope = RopeConfig.from_hf(case["rope"], theta=1.0, max_position=case["max_position"])
    frequencies, factor = inverse_frequencies(rope, case["head_dim"], case["length"])
    assert frequencies.dtype == np.float32
    np.testing.assert_allclose(frequencies, case["frequencies"], rtol=2e-6)
    assert abs(factor - case["factor"]) < 1e-6
    assert RopeConfig.from_hf(rope.to_hf(), theta=2.0, max_position=case["max_position"]) == rope


def test_scores_depend_on_distance_only_and_norms_are_kept():
    rope = RopeConfig.from_hf({}, theta=100.0, max_position=64)
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 1, 1, 1, 8)).astype(np.float32)

    def rotated(x, position):
        return np.asarray(
            apply_rope(jnp.asarray(x), rope_tables(rope, 8, jnp.full((1, 1), position)))
        )

    assert np.allclose(
        (rotated(q, 9) * rotated(k, 4)).sum(), (rotated(q, 30) * rotated(k, 25)).sum(), atol=1e-5
    )
    assert not np.allclose(
        (rotated(q, 9) * rotated(k, 4)).sum(), (rotated(q, 9) * rotated(k, 5)).sum(), atol=1e-3
    )
    assert np.allclose(np.linalg.norm(rotated(q, 17)), np.linalg.norm(q), atol=1e-5)
    assert np.allclose(rotated(q, 0), q)


def test_a_part_of_the_head_can_stay_unrotated():
    rope = RopeConfig.from_hf({"partial_rotary_factor": 0.5}, theta=100.0, max_position=64)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 2, 8)), jnp.bfloat16)
    y = apply_rope(x, rope_tables(rope, 8, jnp.arange(3)[None, :]))
    assert y.dtype == jnp.bfloat16 and y.shape == x.shape
    assert np.array_equal(y[..., 4:], x[..., 4:])
    assert not np.array_equal(y[:, 1:, :, :4], x[:, 1:, :, :4])


LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.5, 2.0, 3.0],
    "long_factor": [2.0, 4.0, 8.0, 16.0],
}
SCALED = {
    "longrope": (
        "llama",
        {"rope_scaling": LONG | {"original_max_position_embeddings": 12}, "head_dim": 8},
    ),
    "phi3": ("phi3", {"rope_scaling": LONG, "original_max_position_embeddings": 12}),
    "dynamic": (
        "qwen2",
        {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}, "max_position_embeddings": 12},
    ),
    "default": ("llama", {}),
}
FAST = [("longrope", 40)]
CASES = [
    pytest.param(name, context, marks=() if (name, context) in FAST else pytest.mark.slow)
    for name in SCALED
    for context in (None, 12, 40)
]


def scaled(name, context):
    family, changes = SCALED[name]
    model, params = init_model(
        tiny(family, num_hidden_layers=1, **changes), jax.random.key(0), context=context
    )
    return model, noisy(params)


@pytest.mark.parametrize(("name", "context"), CASES)
def test_a_row_has_the_same_logits_in_every_width_and_company(name, context):
    model, params = scaled(name, context)
    tokens, mask = ragged(4, 20)
    logits, lengths = jax.jit(model.logits), mask.sum(1)
    together = np.asarray(logits(params, tokens, mask))
    wide = np.asarray(
        logits(params, np.pad(tokens, ((0, 0), (0, 12))), np.pad(mask, ((0, 0), (0, 12))))
    )[:, :20]
    row = int(lengths.argmin())
    alone = np.asarray(
        logits(params, tokens[row : row + 1, : lengths[row]], mask[row : row + 1, : lengths[row]])
    )
    assert lengths[row] < 12 and lengths.max() > 12, "on both sides of the original length"
    bound = 2e-5 * np.abs(together).max()
    assert np.abs(np.where(mask[:, :, None], wide - together, 0)).max() < bound
    assert np.abs(alone[0] - together[row, : lengths[row]]).max() < bound


@pytest.mark.parametrize(("name", "context"), CASES)
def test_the_sampler_agrees_with_the_trainer_across_the_original_length(name, context):
    """Rows of every length up to 26, prompts in two widths; 12 is the original length."""
    model, params = scaled(name, context)
    tokens, mask = ragged(4, 10)
    options = {
        "sampling": SamplingParams(temperature=2.0),
        "max_new_tokens": 16,
        "eos_id": (1, 2, 3),
        "pad_id": 0,
    }

    @jax.jit
    def sample(params, prompts):
        return generate(
            model, params, prompts, mask.sum(1), jax.random.key(1), group_size=2, **options
        )

    # what stands to the right of a prompt does not matter, nor does the width that the trainer cuts
    # rows to
    rollout = sample(params, np.pad(tokens, ((0, 0), (0, 6))))
    longest = int(rollout.mask.sum(1).max())
    score = jax.jit(lambda *args: model.token_logps(*args, temperature=2.0)[0])
    logps = score(params, rollout.tokens[:, :longest], rollout.mask[:, :longest])
    assert longest > 12 and int(rollout.mask.sum(1).min()) < 12
    assert (
        np.abs(
            np.where(rollout.completion_mask, rollout.logps, 0)[:, :longest]
            - np.where(rollout.completion_mask[:, :longest], logps, 0)
        ).max()
        < 1e-5
    )


def test_the_context_decides_between_the_short_and_the_long_form():
    tokens, mask = ragged(2, 10)
    for name in ("longrope", "dynamic"):
        short, params = scaled(name, 12)
        long, _ = scaled(name, 40)
        default, _ = scaled(name, None)
        logits = [
            np.asarray(jax.jit(model.logits)(params, tokens, mask))
            for model in (short, long, default)
        ]
        assert np.abs(logits[0] - logits[1]).max() > 1e-2
        # max_position_embeddings: 64 for longrope, beyond the original length; for dynamic it is
        # the original length
        np.testing.assert_array_equal(logits[2], logits[0 if name == "dynamic" else 1])


def test_rows_beyond_the_context_are_told_of(caplog):
    model, params = scaled("dynamic", 13)
    with caplog.at_level(logging.WARNING):
        jax.eval_shape(model.logits, params, *ragged(2, 13))
        assert not caplog.records
        jax.eval_shape(model.logits, params, *ragged(2, 14))
    assert (
        "rows of 14 tokens: the dynamic rotary scaling is set for rows up to 13; make the model "
        "with context=14" in caplog.text
    )
    with pytest.raises(ValueError, match="context=0 must be at least 1 token"):
        scaled("dynamic", 0)


def test_a_folder_is_loaded_for_a_context():
    row = ragged(1, 20, vocab=48)
    (short, params), (long, _) = (
        load_pretrained(GOLDEN / "phi3_long", context=context) for context in (16, None)
    )
    assert (
        np.abs(
            np.asarray(jax.jit(lambda p: short.logits(p, *row) - long.logits(p, *row))(params))
        ).max()
        > 1e-2
    )
