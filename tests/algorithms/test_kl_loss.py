"""The KL to the reference as a loss, against NumPy, and whose gradient it has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.algorithms import grpo_loss
from rlhf_jax.algorithms.kl_loss import kl_loss
from tests.oracles import policy as oracle

KINDS = [("k2", False), ("k3", False), ("k3", True)]


def arrays(seed: int = 4) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    logps, old, ref = rng.normal(-1.5, 0.6, (3, 4, 6))
    return logps, old, ref, rng.random((4, 6)) < 0.7


def f32(*given: np.ndarray) -> list[jax.Array]:
    return [jnp.asarray(x, jnp.float32) for x in given]


@pytest.mark.parametrize("mode", ["token", "sequence"])
@pytest.mark.parametrize(("kind", "unbiased"), KINDS)
def test_value_and_gradient_are_those_of_the_equation(mode: str, kind: str, unbiased: bool) -> None:
    logps, old, ref, mask = arrays()
    weights = oracle.loss_weights(mask, mode)
    logps, old, ref = (np.float32(x).astype(np.float64) for x in (logps, old, ref))
    dirty = [np.where(mask, x, np.nan) for x in (logps, old, ref)]

    def f(x: jax.Array) -> jax.Array:
        return kl_loss(x, *f32(*dirty[1:], weights), kind=kind, unbiased=unbiased)

    loss, gradient = jax.jit(jax.value_and_grad(f))(f32(dirty[0])[0])
    args = (old, ref, weights, kind, unbiased)
    np.testing.assert_allclose(loss, oracle.kl_loss(logps, *args), rtol=1e-5)
    expected = np.zeros(logps.shape)
    for place in np.ndindex(*logps.shape):
        step = np.zeros(logps.shape)
        step[place] = 1e-6
        above, below = (oracle.kl_loss(logps + sign * step, *args) for sign in (1, -1))
        expected[place] = (above - below) / 2e-6
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)
    assert (np.asarray(gradient)[~mask] == 0).all() and (expected[mask] != 0).all()


def test_beyond_the_clamp_of_the_ratio_there_is_no_gradient_through_it() -> None:
    logps, old, ref = f32(*np.array([[[-1.0]], [[-26.0]], [[-1.5]]]))
    weights = jnp.ones((1, 1))
    loss, gradient = jax.value_and_grad(kl_loss)(logps, old, ref, weights, unbiased=True)
    np.testing.assert_allclose(loss, np.exp(20) * oracle.kl(-1.0, -1.5, "k3"), rtol=1e-5)
    # of the estimator alone
    np.testing.assert_allclose(gradient, np.exp(20) * (1 - np.exp(-0.5)), rtol=1e-5)


def test_it_is_the_kl_that_the_loss_adds() -> None:
    logps, old, ref, mask = arrays()
    weights = oracle.loss_weights(mask, "sequence")
    given = f32(logps, old, np.ones(logps.shape), weights)
    options = {"ref_logps": f32(ref)[0], "kl_coef": 0.3}
    kl = oracle.kl_loss(logps, old, ref, weights, "k3", True)
    loss, metrics = grpo_loss(*given, **options, kl_unbiased=True)
    np.testing.assert_allclose(metrics["kl/ref"], kl, rtol=1e-4)
    np.testing.assert_allclose(loss, metrics["loss/policy"] + 0.3 * kl, rtol=1e-4)


@pytest.mark.parametrize("off_policy", [False, True])
@pytest.mark.parametrize(("kind", "unbiased"), KINDS)
def test_whose_gradient_it_has(kind: str, unbiased: bool, off_policy: bool) -> None:
    """Over all tokens of a small vocabulary, weighed by how often each is sampled."""
    rng = np.random.default_rng(0)
    logits, sampler, reference = f32(*rng.normal(0, 1.0, (3, 7)))
    sampler = sampler if off_policy else logits
    often = jax.nn.softmax(sampler)[:, None]

    def expected_loss(x: jax.Array) -> jax.Array:
        columns = [jax.nn.log_softmax(each)[:, None] for each in (x, sampler, reference)]
        return kl_loss(*columns, often, kind=kind, unbiased=unbiased)

    def divergence(x: jax.Array, y: jax.Array) -> jax.Array:
        p, q = jax.nn.log_softmax(x), jax.nn.log_softmax(y)
        return jnp.sum(jnp.exp(p) * (p - q))

    found = jax.grad(expected_loss)(logits)
    forward = jax.grad(divergence)(logits, reference)
    if unbiased:
        np.testing.assert_allclose(found, forward, rtol=1e-4, atol=1e-6)
    elif kind == "k2" and not off_policy:
        np.testing.assert_allclose(found, forward, rtol=1e-4, atol=1e-6)
    elif kind == "k3" and not off_policy:
        backward = jax.grad(divergence, argnums=1)(reference, logits)
        np.testing.assert_allclose(found, backward, rtol=1e-4, atol=1e-6)
    else:
        assert np.abs(np.asarray(found - forward)).max() > 0.05
