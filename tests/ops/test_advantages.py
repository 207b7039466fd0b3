"""gae, group_advantages, leave_one_out_advantages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.ops import gae, group_advantages, leave_one_out_advantages
from tests.oracles import policy as oracle

NAN = float("nan")


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (1.0, 1.0), (0.9, 0.5), (1.0, 0.0)])
@pytest.mark.parametrize("jit", [False, True])
def test_gae_matches_oracle(gamma, lam, jit):
    rng = np.random.default_rng(4)
    rewards, values, mask = (
        rng.normal(size=(5, 9)),
        rng.normal(size=(5, 9)),
        rng.random((5, 9)) < 0.6,
    )
    mask[2] = False
    rewards[~mask], values[~mask] = np.nan, np.inf
    wanted = oracle.gae(rewards, values, mask, gamma, lam)

    def f(r, v, m):
        return gae(r, v, m, gamma=gamma, gae_lambda=lam)

    got = (jax.jit(f) if jit else f)(
        jnp.asarray(rewards, jnp.float32), jnp.asarray(values, jnp.float32), jnp.asarray(mask)
    )
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_gae_by_hand():
    """gamma 1, lambda 0.5, r 0 0 1, V 0.5 0.4 0.8: deltas -0.1 0.4 0.2; A = 0.15, 0.5, 0.2."""
    rewards, values = jnp.array([[0.0, 0.0, 1.0]]), jnp.array([[0.5, 0.4, 0.8]])
    advantages, returns = gae(rewards, values, jnp.ones((1, 3), bool), gae_lambda=0.5)
    np.testing.assert_allclose(advantages, [[0.15, 0.5, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(returns, [[0.65, 0.9, 1.0]], rtol=1e-6)


def test_gae_bridges_masked_positions():
    """The words of a tool between two turns change nothing."""
    short = gae(jnp.array([[0.0, 1.0]]), jnp.array([[0.3, 0.6]]), jnp.ones((1, 2), bool))
    mask = jnp.array([[True, False, False, True]])
    long = gae(jnp.array([[0.0, 9.0, NAN, 1.0]]), jnp.array([[0.3, 5.0, NAN, 0.6]]), mask)
    for a, b in zip(short, long, strict=True):
        np.testing.assert_array_equal(b[:, [0, 3]], a)
        np.testing.assert_array_equal(b[:, 1:3], 0)


def test_gae_lambda_one_is_return_minus_value():
    rewards, values = jnp.array([[0.1, -0.2, 1.0]]), jnp.array([[0.5, 0.4, 0.8]])
    advantages, returns = gae(rewards, values, jnp.ones((1, 3), bool), gae_lambda=1.0)
    np.testing.assert_allclose(returns, [[0.9, 0.8, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(advantages, returns - values, rtol=1e-6)


def groups(seed=5):
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=(6, 5))
    rewards[1] = 0.1
    rewards[2, 0] = NAN
    valid = rng.random((6, 5)) < 0.8
    valid[3], valid[4] = False, [True, False, False, False, False]
    return rewards, valid


@pytest.mark.parametrize(
    ("std", "eps", "ddof"),
    [(True, 1e-4, 1), (True, 1e-6, 0), (False, 1e-4, 1), ("batch", 1e-4, 1)],
)
@pytest.mark.parametrize("jit", [False, True])
def test_group_advantages_match_oracle(std, eps, ddof, jit):
    rewards, valid = groups()

    def f(r, v):
        return group_advantages(r, v, normalize_std=std, eps=eps, ddof=ddof)

    got = (jax.jit(f) if jit else f)(jnp.asarray(rewards, jnp.float32), jnp.asarray(valid))
    np.testing.assert_allclose(
        got,
        oracle.group_advantages(rewards, valid, std=std, eps=eps, ddof=ddof),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("jit", [False, True])
def test_leave_one_out_matches_oracle(jit):
    rewards, valid = groups()
    f = jax.jit(leave_one_out_advantages) if jit else leave_one_out_advantages
    got = f(jnp.asarray(rewards, jnp.float32), jnp.asarray(valid))
    np.testing.assert_allclose(got, oracle.leave_one_out(rewards, valid), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("estimator", [group_advantages, leave_one_out_advantages])
@pytest.mark.parametrize("reward", [0.1, 1 / 3, 1e6 + 0.1])
@pytest.mark.parametrize("size", [2, 3, 7])
def test_equal_rewards_give_exactly_zero(estimator, reward, size):
    assert (estimator(jnp.full((2, size), reward, jnp.float32)) == 0).all()


@pytest.mark.parametrize("estimator", [group_advantages, leave_one_out_advantages])
def test_group_of_one_and_group_of_none(estimator):
    np.testing.assert_array_equal(estimator(jnp.array([[3.0]])), [[0.0]])
    np.testing.assert_array_equal(
        estimator(jnp.array([[NAN, NAN], [2.0, NAN]])), [[0.0, 0.0], [0.0, 0.0]]
    )


@pytest.mark.parametrize("estimator", [group_advantages, leave_one_out_advantages])
def test_no_gradient_and_bf16(estimator):
    rewards = jnp.array([[1.0, 0.0, NAN]], jnp.bfloat16)
    assert estimator(rewards).dtype == jnp.float32
    assert (jax.grad(lambda r: estimator(r).sum())(jnp.array([[1.0, 0.0, 3.0]])) == 0).all()
    with jax.enable_x64(True):
        assert estimator(jnp.array([[1.0, 0.0]], jnp.float64)).dtype == jnp.float64


def test_gae_has_no_gradient():
    ones = jnp.ones((1, 3))
    gradient = jax.grad(lambda v: gae(ones, v, ones > 0)[0].sum())(ones)
    assert (gradient == 0).all()
    assert (
        gae(ones.astype(jnp.bfloat16), ones.astype(jnp.bfloat16), ones > 0)[0].dtype == jnp.float32
    )


def test_group_advantages_by_hand():
    """Rewards 1 0 0 1: mean 0.5, unbiased std sqrt(1/3)."""
    got = group_advantages(jnp.array([[1.0, 0.0, 0.0, 1.0]]), eps=0.0)
    np.testing.assert_allclose(got, np.array([[1, -1, -1, 1]]) * 0.5 * np.sqrt(3), rtol=1e-6)
    biased = group_advantages(jnp.array([[1.0, 0.0, 0.0, 1.0]]), eps=0.0, ddof=0)
    np.testing.assert_allclose(biased, [[1, -1, -1, 1]], rtol=1e-6)


def test_bad_ddof():
    with pytest.raises(ValueError, match="ddof='2' is not known: use one of 0, 1"):
        group_advantages(jnp.ones((1, 2)), ddof=2)
