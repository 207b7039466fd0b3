"""Rotary embedding: frequencies of transformers, and what a rotation keeps."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models.rope import ROPE_TYPES, RopeConfig, apply_rope, inverse_frequencies, rope_tables
from tests.models.tiny import GOLDEN

STORED = json.loads((GOLDEN / "rope.json").read_text())


def test_every_type_is_stored():
    assert {case["rope"]["rope_type"] for case in STORED} == set(ROPE_TYPES)


@pytest.mark.parametrize("case", STORED, ids=lambda case: f"{case['rope']['rope_type']}-{case['length']}")
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
        return np.asarray(apply_rope(jnp.asarray(x), rope_tables(rope, 8, jnp.full((1, 1), position))))

    assert np.allclose((rotated(q, 9) * rotated(k, 4)).sum(), (rotated(q, 30) * rotated(k, 25)).sum(), atol=1e-5)
    assert not np.allclose((rotated(q, 9) * rotated(k, 4)).sum(), (rotated(q, 9) * rotated(k, 5)).sum(), atol=1e-3)
    assert np.allclose(np.linalg.norm(rotated(q, 17)), np.linalg.norm(q), atol=1e-5)
    assert np.allclose(rotated(q, 0), q)


def test_a_part_of_the_head_can_stay_unrotated():
    rope = RopeConfig.from_hf({"partial_rotary_factor": 0.5}, theta=100.0, max_position=64)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 2, 8)), jnp.bfloat16)
    y = apply_rope(x, rope_tables(rope, 8, jnp.arange(3)[None, :]))
    assert y.dtype == jnp.bfloat16 and y.shape == x.shape
    assert np.array_equal(y[..., 4:], x[..., 4:])
    assert not np.array_equal(y[:, 1:, :, :4], x[:, 1:, :, :4])
