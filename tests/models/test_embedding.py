"""Token lookup: the same rows and gradients on a mesh; foreign ids are not silent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models.embedding import lookup
from rlhf_jax.sharding import make_mesh

TABLE = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)
TOKENS = np.random.default_rng(1).integers(0, 16, (8, 5)).astype(np.int32)


@pytest.mark.parametrize("sizes", [None, {"fsdp": 4, "tensor": 2}, {"data": 2, "fsdp": 4}])
def test_rows_and_gradients(sizes):
    mesh = None if sizes is None else make_mesh(sizes)
    weights = jnp.arange(4.0)[None, None, :]
    rows, pull = jax.vjp(jax.jit(lambda table: lookup(table, TOKENS, mesh)), TABLE)
    assert np.array_equal(rows, TABLE[TOKENS])
    counts = np.bincount(TOKENS.ravel(), minlength=16)
    (grads,) = pull(jnp.broadcast_to(weights, rows.shape))
    np.testing.assert_allclose(grads, counts[:, None] * np.arange(4.0), rtol=1e-6)


@pytest.mark.parametrize("sizes", [None, {"fsdp": 4, "tensor": 2}, {"data": 8}])
def test_a_token_outside_the_vocabulary_is_nan(sizes):
    mesh = None if sizes is None else make_mesh(sizes)
    tokens = TOKENS.copy()
    tokens[2, 3] = 16
    rows = np.asarray(jax.jit(lambda table: lookup(table, tokens, mesh))(TABLE))
    assert np.isnan(rows[2, 3]).all() and np.isnan(rows).sum() == 4


def test_a_vocabulary_that_does_not_divide_is_looked_up_whole():
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    rows = jax.jit(lambda table: lookup(table, TOKENS % 15, mesh))(TABLE[:15])
    assert np.array_equal(rows, TABLE[:15][TOKENS % 15])
