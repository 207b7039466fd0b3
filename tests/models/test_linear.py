"""`linear` against the plain product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models.linear import linear


@pytest.mark.parametrize("inputs, outputs", [(5, 9), (9, 5)])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_equals_the_plain_product(inputs, outputs, dtype, tolerance):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 7, inputs), dtype)
    kernel = jax.random.normal(keys[1], (inputs, outputs), dtype)
    cotangent = jax.random.normal(keys[2], (2, 7, outputs), dtype)

    def results(product):
        y, pull = jax.vjp(product, x, kernel)
        return y, *pull(cotangent)

    for a, b in zip(results(linear), results(jnp.matmul), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(*(np.asarray(v, np.float32) for v in (a, b)), rtol=tolerance, atol=10 * tolerance)


def test_products_stay_visible_to_checkpoint_policies():
    """Activation checkpointing that saves products recomputes none of them; saving nothing recomputes both."""
    x, kernels = jnp.ones((4, 6)), [jnp.ones((6, 8)), jnp.ones((8, 6))]

    def count(policy):
        def loss(kernels):
            y = jnp.sin(linear(jnp.sin(linear(x, kernels[0])), kernels[1]))
            return y.sum()

        text = str(jax.make_jaxpr(jax.grad(jax.checkpoint(loss, policy=policy)))(kernels))
        return text.count("dot_general")

    assert count(jax.checkpoint_policies.everything_saveable) == count(jax.checkpoint_policies.dots_saveable)
    assert count(jax.checkpoint_policies.nothing_saveable) > count(jax.checkpoint_policies.dots_saveable)
