"""kl_estimate and adaptive_kl_coef."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.ops import KL_KINDS, adaptive_kl_coef, kl_estimate
from tests.oracles import policy as oracle


@pytest.mark.parametrize("kind", KL_KINDS)
@pytest.mark.parametrize(
    "wrap", [lambda f: f, lambda f: jax.jit(f, static_argnames="kind")], ids=["eager", "jit"]
)
def test_matches_oracle(kind, wrap):
    rng = np.random.default_rng(3)
    logps, ref = rng.normal(-2, 1, (3, 5)), rng.normal(-2, 1, (3, 5))
    logps[0, :2], ref[0, :2] = [-50.0, -0.5], [-0.5, -50.0]
    got = wrap(kl_estimate)(
        jnp.asarray(logps, jnp.float32), jnp.asarray(ref, jnp.float32), kind=kind
    )
    wanted = np.vectorize(lambda x, y: oracle.kl(x, y, kind))(logps, ref)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "value", "slope"),
    [("k1", 1.0, 1.0), ("k2", 0.5, 1.0), ("k3", np.exp(-1.0), 1 - np.exp(-1.0))],
)
def test_hand_values_and_slopes(kind, value, slope):
    """d = 1: k1 = 1, k2 = 1/2, k3 = 1/e; slopes 1, d, 1 - exp(-d). None for the reference."""
    logps, ref = jnp.array([[-1.0]]), jnp.array([[-2.0]])
    got, (d_logps, d_ref) = jax.value_and_grad(
        lambda x, y: kl_estimate(x, y, kind).sum(), argnums=(0, 1)
    )(logps, ref)
    np.testing.assert_allclose([got, d_logps[0, 0], d_ref[0, 0]], [value, slope, 0.0], rtol=1e-6)


@pytest.mark.parametrize("kind", KL_KINDS)
@pytest.mark.parametrize("gap", [50.0, -50.0])
def test_large_gaps_are_finite(kind, gap):
    value, slope = jax.value_and_grad(lambda x: kl_estimate(x, jnp.zeros((1, 1)), kind).sum())(
        jnp.full((1, 1), gap)
    )
    assert jnp.isfinite(value) and jnp.isfinite(slope).all()


def test_expected_gradients_over_a_categorical():
    """Why k1 is no loss: E grad k1 = 0, E k2' = grad KL(π||ref), E k3' = grad KL(ref||π)."""
    logits, ref_logits = jnp.array([0.3, -1.0, 0.8, 0.1]), jnp.array([-0.5, 0.4, 0.2, 1.0])
    probs, ref = jax.nn.softmax(logits), jax.nn.log_softmax(ref_logits)

    def expected(kind):
        def estimate(z):
            return (
                jax.lax.stop_gradient(probs)
                * kl_estimate(jax.nn.log_softmax(z)[None], ref[None], kind)[0]
            ).sum()

        return jax.grad(estimate)(logits)

    def forward(z):
        return (jax.nn.softmax(z) * (jax.nn.log_softmax(z) - ref)).sum()

    def backward(z):
        return (jnp.exp(ref) * (ref - jax.nn.log_softmax(z))).sum()

    np.testing.assert_allclose(expected("k1"), 0.0, atol=1e-6)
    np.testing.assert_allclose(expected("k2"), jax.grad(forward)(logits), atol=1e-6)
    np.testing.assert_allclose(expected("k3"), jax.grad(backward)(logits), atol=1e-6)
    for kind in ("k1", "k3"):
        mean = (probs * kl_estimate(jnp.log(probs)[None], ref[None], kind)[0]).sum()
        np.testing.assert_allclose(mean, forward(logits), rtol=1e-5)


def test_bf16_is_promoted():
    assert (
        kl_estimate(jnp.zeros((1, 1), jnp.bfloat16), jnp.zeros((1, 1), jnp.bfloat16), "k2").dtype
        == jnp.float32
    )


def test_unknown_kind():
    with pytest.raises(ValueError, match="kind='k4' is not known: use one of k1, k2, k3"):
        kl_estimate(jnp.zeros((1, 1)), jnp.zeros((1, 1)), "k4")


@pytest.mark.parametrize(
    ("kl", "steps", "wanted"),
    [
        (6.0, 500, 0.1),
        (12.0, 500, 0.1 * 1.01),
        (0.0, 500, 0.1 * 0.99),
        (6.6, 1000, 0.1 * 1.01),
        (6.0e9, 10_000, 0.12),
    ],
)
def test_adaptive_coefficient(kl, steps, wanted):
    got = jax.jit(lambda c, k, n: adaptive_kl_coef(c, k, n, target=6.0))(
        jnp.float32(0.1), jnp.float32(kl), steps
    )
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"target": 0.0}, "target=0.0"), ({"target": 1.0, "horizon": -1}, "horizon=-1")],
)
def test_adaptive_coefficient_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        adaptive_kl_coef(0.1, 1.0, 1, **options)
