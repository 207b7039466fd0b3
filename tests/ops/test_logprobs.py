"""token_logps, token_entropy, log_ratio."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.ops import fused_token_logps, log_ratio, token_entropy, token_logps
from tests.oracles import policy as oracle


@pytest.fixture(scope="module")
def sample():
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 6, 11)) * 3, rng.integers(0, 11, (3, 6))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_matches_oracle(sample, wrap):
    logits, tokens = sample
    got = wrap(token_logps)(jnp.asarray(logits, jnp.float32), jnp.asarray(tokens))
    np.testing.assert_allclose(got, oracle.token_logps(logits, tokens), rtol=1e-5, atol=1e-6)
    entropy = wrap(token_entropy)(jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(entropy, oracle.token_entropy(logits), rtol=1e-5, atol=1e-6)


def test_column_zero_is_zero(sample):
    logits, tokens = (jnp.asarray(x) for x in sample)
    assert (token_logps(logits, tokens)[:, 0] == 0).all()
    assert (token_entropy(logits)[:, 0] == 0).all()


def test_bf16_is_promoted_and_float64_stays(sample):
    logits, tokens = sample
    half = jnp.asarray(logits, jnp.bfloat16)
    exact = np.asarray(half.astype(jnp.float32), np.float64)
    got = token_logps(half, jnp.asarray(tokens))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, oracle.token_logps(exact, tokens), rtol=1e-5, atol=1e-5)
    assert token_entropy(half).dtype == jnp.float32
    with jax.enable_x64(True):
        got = token_logps(jnp.asarray(logits, jnp.float64), jnp.asarray(tokens))
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, oracle.token_logps(logits, tokens), rtol=1e-13, atol=1e-14)


def test_entropy_of_large_and_forbidden_logits():
    logits = jnp.array([[[1e4, 1e4, -jnp.inf, 0.0], [0.0, 0.0, 0.0, 0.0]]])
    np.testing.assert_allclose(token_entropy(logits)[0, 1], np.log(2), rtol=1e-6)
    gradient = jax.grad(lambda z: token_entropy(z).sum())(logits)
    assert jnp.isfinite(gradient).all()


def test_entropy_gradient_is_minus_p_times_logp_plus_entropy(sample):
    logits = jnp.asarray(sample[0], jnp.float32)
    got = jax.grad(lambda z: token_entropy(z).sum())(logits)
    logps = jax.nn.log_softmax(logits[:, :-1])
    entropy = token_entropy(logits)[:, 1:, None]
    np.testing.assert_allclose(
        got[:, :-1], -jnp.exp(logps) * (logps + entropy), rtol=1e-4, atol=1e-6
    )
    assert (got[:, -1] == 0).all()


def test_plain_form_agrees_with_fused_form():
    keys = jax.random.split(jax.random.key(0), 3)
    hidden, unembed = jax.random.normal(keys[0], (2, 5, 8)), jax.random.normal(keys[1], (13, 8))
    tokens = jax.random.randint(keys[2], (2, 5), 0, 13)
    logits = hidden @ unembed.T
    logps, entropy = fused_token_logps(hidden, unembed, tokens)
    np.testing.assert_allclose(logps, token_logps(logits, tokens), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(entropy, token_entropy(logits), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("difference", "wanted", "slope"), [(0.5, 0.5, 1.0), (50.0, 20.0, 0.0), (-50.0, -20.0, 0.0)]
)
def test_log_ratio_is_clamped_with_no_gradient_beyond(difference, wanted, slope):
    value, gradient = jax.value_and_grad(lambda x: log_ratio(x, jnp.float32(-1.0)))(
        jnp.float32(difference - 1.0)
    )
    assert (float(value), float(gradient)) == (wanted, slope)
    assert float(jax.grad(log_ratio, argnums=1)(jnp.float32(0.3), jnp.float32(0.1))) == 0.0
