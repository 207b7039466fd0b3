"""loss_weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.ops import loss_weights
from tests.oracles import policy as oracle

MODES = [("token", None), ("sequence", None), ("constant", 10)]


def batch(packed):
    rng = np.random.default_rng(2)
    mask = rng.random((5, 12)) < 0.5
    mask[3] = False
    segments = np.sort(rng.integers(1, 5, (5, 12)), axis=1)
    segments[:, 10:], mask[:, 10:] = 0, False
    mask[1] &= segments[1] != segments[1, 4]  # a document without a trained token
    return mask, (segments if packed else None)


@pytest.mark.parametrize(("mode", "constant"), MODES)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "wrap",
    [lambda f: f, lambda f: jax.jit(f, static_argnames=("mode", "constant"))],
    ids=["eager", "jit"],
)
def test_matches_oracle(mode, constant, packed, wrap):
    mask, segments = batch(packed)
    ids = None if segments is None else jnp.asarray(segments)
    got = wrap(loss_weights)(jnp.asarray(mask), mode=mode, constant=constant, segment_ids=ids)
    np.testing.assert_allclose(got, oracle.loss_weights(mask, mode, constant, segments), rtol=1e-6)
    assert got.dtype == jnp.float32


@pytest.mark.parametrize("mode", ["token", "sequence"])
@pytest.mark.parametrize("packed", [False, True])
def test_sums_to_one(mode, packed):
    mask, segments = batch(packed)
    weights = loss_weights(
        jnp.asarray(mask), mode, segment_ids=None if segments is None else jnp.asarray(segments)
    )
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-6)


@pytest.mark.parametrize(("mode", "constant"), MODES)
@pytest.mark.parametrize("packed", [False, True])
def test_empty_batch_has_zero_weights(mode, constant, packed):
    ids = jnp.zeros((2, 3), jnp.int32) if packed else None
    assert (
        loss_weights(jnp.zeros((2, 3), bool), mode, constant=constant, segment_ids=ids) == 0
    ).all()


def test_packing_changes_nothing():
    """Three documents in three rows or in one row: the same weight on each token."""
    rows = jnp.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], bool)
    packed, ids = jnp.ones((1, 7), bool), jnp.array([[1, 1, 2, 2, 2, 2, 3]])
    for mode, constant in MODES:
        apart = loss_weights(rows, mode, constant=constant)
        together = loss_weights(packed, mode, constant=constant, segment_ids=ids)
        np.testing.assert_allclose(together[0], np.asarray(apart)[np.asarray(rows)], rtol=1e-6)


def test_float64_under_x64():
    with jax.enable_x64(True):
        weights = loss_weights(jnp.ones((1, 3), bool))
        assert weights.dtype == jnp.float64
        np.testing.assert_allclose(weights, 1 / 3, rtol=1e-15)


@pytest.mark.parametrize(
    ("mode", "constant", "message"),
    [
        (
            "tokens",
            None,
            "mode='tokens' is not known: use one of token, sequence, constant .did you mean "
            "'token'?",
        ),
        ("constant", None, "constant=None: give a positive constant"),
        ("constant", 0, "constant=0: give a positive constant"),
        ("constant", float("nan"), "constant=nan: give a positive constant"),
        ("token", 5, "constant=5: leave constant out"),
    ],
)
def test_bad_arguments(mode, constant, message):
    with pytest.raises(ValueError, match=message):
        loss_weights(jnp.ones((1, 2), bool), mode, constant=constant)
