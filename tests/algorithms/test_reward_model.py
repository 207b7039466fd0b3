"""Reward model: pairwise loss, and where the score is read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.algorithms import RewardModelConfig, pairwise_reward_loss, reward_model
from rlhf_jax.algorithms.forward import pair_scores
from tests.contract.fakes import make_batch, make_model, make_params
from tests.oracles import preference as oracle


@pytest.mark.parametrize(("with_margin", "center"), [(False, 0.0), (True, 0.0), (True, 0.05)])
@pytest.mark.parametrize("jit", [False, True])
def test_matches_oracle(with_margin, center, jit):
    rng = np.random.default_rng(7)
    chosen, rejected, margin = rng.normal(0, 3, 6), rng.normal(0, 3, 6), np.abs(rng.normal(size=6))
    weights = np.array([0.1, 0.2, 0.3, 0.4, 0.0, 0.0])
    wanted = sum(
        w * oracle.reward(c, r, margin=m if with_margin else 0.0, center=center)
        for c, r, m, w in zip(chosen, rejected, margin, weights, strict=True)
    )
    chosen[4], rejected[5], margin[4] = np.nan, np.inf, np.nan

    def f(c, r, w, m):
        return pairwise_reward_loss(c, r, w, margin=m if with_margin else None, center_coef=center)[
            0
        ]

    f = jax.value_and_grad(jax.jit(f) if jit else f, argnums=(0, 1))
    loss, gradient = f(*(jnp.asarray(x, jnp.float32) for x in (chosen, rejected, weights, margin)))
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    assert all(jnp.isfinite(g).all() and (g[4:] == 0).all() for g in gradient)


def test_gradient_by_hand():
    """Equal scores: d/dc = -1/2, d/dr = 1/2."""
    gradient = jax.grad(lambda c, r: pairwise_reward_loss(c, r, jnp.ones(1))[0], argnums=(0, 1))(
        jnp.zeros(1), jnp.zeros(1)
    )
    np.testing.assert_allclose([gradient[0][0], gradient[1][0]], [-0.5, 0.5])


def test_metrics():
    _, metrics = pairwise_reward_loss(
        jnp.array([2.0, 0.0, 9.0]), jnp.array([1.0, 0.0, 5.0]), jnp.array([0.5, 0.5, 0.0])
    )
    # a tie counts half
    wanted = {"chosen": 1.0, "rejected": 0.5, "margin": 0.5, "accuracy": 0.75, "mean": 0.75}
    assert {k: float(metrics[f"rewards/{k}"]) for k in wanted} == wanted


@pytest.mark.parametrize("gap", [50.0, -50.0, 1e4])
def test_extreme_scores_are_finite(gap):
    loss, gradient = jax.value_and_grad(
        lambda c: pairwise_reward_loss(c, jnp.zeros(1), jnp.ones(1))[0]
    )(jnp.full(1, gap))
    assert jnp.isfinite(loss) and jnp.isfinite(gradient).all()


def test_bf16_scores_compute_in_float32():
    one = jnp.ones(2, jnp.bfloat16)
    assert pairwise_reward_loss(one, one, one / 2, margin=one)[0].dtype == jnp.float32


def test_score_is_read_at_the_last_present_token():
    batch, model, params = make_batch("pairs", 1), make_model(), make_params(0)
    got, score = pair_scores(model)({"policy": params}, batch), jax.jit(model.scores)
    for pair in range(3):
        for side in range(2):
            length = int(batch.mask[pair, side].sum())
            scores = score(params, batch.tokens[pair, side][None], batch.mask[pair, side][None])
            np.testing.assert_allclose(got[pair, side], scores[0, length - 1], rtol=1e-5)


def test_margin_of_the_batch_is_used():
    batch, params = make_batch("pairs", 1), make_params(0)
    algorithm = reward_model.make(RewardModelConfig(), make_model())
    plain, _ = algorithm.loss({"policy": params}, algorithm.weigh(batch), jax.random.key(0))
    margin = jnp.full(batch.valid.shape, 2.0)
    harder, _ = algorithm.loss(
        {"policy": params}, algorithm.weigh(batch._replace(margin=margin)), jax.random.key(0)
    )
    assert float(harder) > float(plain) + 0.1


def test_no_valid_pair():
    batch = make_batch("pairs", 1)
    algorithm = reward_model.make(RewardModelConfig(), make_model())
    weights = algorithm.weigh(batch._replace(valid=jnp.zeros_like(batch.valid))).weights
    assert (weights == 0).all()


def test_negative_centring_is_refused():
    with pytest.raises(ValueError, match="center_coef=-0.1 is out of range"):
        RewardModelConfig(center_coef=-0.1)
