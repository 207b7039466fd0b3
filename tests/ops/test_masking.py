"""masked, weighted_sum, masked_mean, masked_whiten, predicted_mask, promote."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.ops import masked, masked_mean, masked_whiten, predicted_mask, weighted_sum
from rlhf_jax.ops.precision import default_float, promote
from tests.oracles import policy as oracle

NAN = jnp.nan


def test_masked_gradient_through_exp_of_infinity_is_zero():
    x, mask = jnp.array([0.0, jnp.inf, NAN]), jnp.array([True, False, False])
    value, gradient = jax.value_and_grad(lambda x: jnp.exp(masked(x, mask)).sum())(x)
    assert float(value) == 3.0
    np.testing.assert_array_equal(gradient, [1.0, 0.0, 0.0])


def test_weighted_sum_ignores_what_has_no_weight():
    weights = jnp.array([0.25, 0.5, 0.0])
    value, gradient = jax.value_and_grad(weighted_sum)(jnp.array([4.0, 2.0, NAN]), weights)
    assert float(value) == 2.0
    np.testing.assert_array_equal(gradient, weights)
    assert (jax.grad(weighted_sum, argnums=1)(jnp.ones(3), weights) == 0).all()


@pytest.mark.parametrize(("mask", "wanted"), [([1, 1, 0], 1.5), ([0, 0, 0], 0.0), ([0, 1, 0], 2.0)])
def test_masked_mean(mask, wanted):
    x, mask = jnp.array([1.0, 2.0, NAN]), jnp.array(mask, bool)
    value, gradient = jax.value_and_grad(masked_mean)(x, mask)
    assert float(value) == wanted
    np.testing.assert_allclose(gradient, mask / max(int(mask.sum()), 1))


@pytest.mark.parametrize("shift_mean", [True, False])
@pytest.mark.parametrize(
    "wrap", [lambda f: f, lambda f: jax.jit(f, static_argnames="shift_mean")], ids=["eager", "jit"]
)
def test_masked_whiten_matches_oracle(shift_mean, wrap):
    rng = np.random.default_rng(1)
    x, mask = rng.normal(3.0, 2.0, (4, 7)), rng.random((4, 7)) < 0.6
    x[~mask] = np.nan
    got = wrap(masked_whiten)(jnp.asarray(x, jnp.float32), jnp.asarray(mask), shift_mean=shift_mean)
    np.testing.assert_allclose(got, oracle.whiten(x, mask, shift_mean), rtol=1e-5, atol=1e-5)
    assert (np.asarray(got)[~mask] == 0).all()


@pytest.mark.parametrize(("shift_mean", "wanted"), [(True, 0.0), (False, 5.0)])
def test_masked_whiten_of_one_and_of_none(shift_mean, wanted):
    one = masked_whiten(jnp.array([5.0, NAN]), jnp.array([True, False]), shift_mean=shift_mean)
    np.testing.assert_array_equal(one, [wanted, 0.0])
    none = masked_whiten(jnp.array([NAN, NAN]), jnp.zeros(2, bool), shift_mean=shift_mean)
    np.testing.assert_array_equal(none, [0.0, 0.0])


def test_predicted_mask_drops_first_tokens():
    mask = jnp.ones((2, 6), bool)
    np.testing.assert_array_equal(predicted_mask(mask).astype(int), [[0, 1, 1, 1, 1, 1]] * 2)
    segments = jnp.array([[1, 1, 2, 2, 2, 3], [1, 1, 1, 1, 2, 2]])
    np.testing.assert_array_equal(
        predicted_mask(mask, segments).astype(int), [[0, 1, 0, 1, 1, 0], [0, 1, 1, 1, 0, 1]]
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32, jnp.float32])
def test_promote_to_float32(dtype):
    assert promote(jnp.ones(2, dtype))[0].dtype == jnp.float32


def test_promote_keeps_float64_and_default_float_follows_x64():
    assert default_float() == jnp.float32
    with jax.enable_x64(True):
        both = promote(jnp.ones(2, jnp.float64), jnp.ones(2, jnp.float32))
        assert [x.dtype for x in both] == [jnp.float64, jnp.float64]
        assert default_float() == jnp.float64


@pytest.mark.parametrize("function", [masked_mean, masked_whiten])
def test_reductions_of_bf16_are_float32(function):
    assert function(jnp.ones((2, 2), jnp.bfloat16), jnp.ones((2, 2), bool)).dtype == jnp.float32
