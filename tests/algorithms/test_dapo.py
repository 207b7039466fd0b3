"""DAPO: clip-higher, token-level weights, overlong punishment and filtering."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.algorithms import DAPOConfig, dapo, dapo_loss
from tests.contract.fakes import make_batch, make_model
from tests.oracles import policy as oracle

# Hand-derived, eps 0.2 / 0.28, dual clip 10, weight 1: (ratio, advantage, loss, slope in logps)
TABLE = [
    (1.25, 1.0, -1.25, -1.25),  # PPO would clip at 1.2
    (1.5, 1.0, -1.28, 0.0),
    (0.5, 1.0, -0.5, -0.5),
    (0.5, -1.0, 0.8, 0.0),
    (1.5, -1.0, 1.5, 1.5),
    (20.0, -1.0, 10.0, 0.0),  # the dual clip
]


@pytest.fixture(scope="module")
def rollout():
    return make_batch("prompts", 1)


@pytest.mark.parametrize(("ratio", "advantage", "loss", "slope"), TABLE)
def test_table(ratio, advantage, loss, slope):
    one = jnp.ones((1, 1))
    f = jax.value_and_grad(lambda x: dapo_loss(x, 0 * one, advantage * one, one)[0])
    got, gradient = f(jnp.full((1, 1), np.log(ratio), jnp.float32))
    np.testing.assert_allclose([got, gradient[0, 0]], [loss, slope], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dual", [10.0, None])
def test_loss_matches_oracle(dual):
    rng = np.random.default_rng(13)
    logps, old, advantages = (
        rng.normal(-2, 1, (4, 6)),
        rng.normal(-2, 1, (4, 6)),
        rng.normal(size=(4, 6)),
    )
    weights = oracle.loss_weights(rng.random((4, 6)) < 0.7, "token")
    wanted, clipped = oracle.surrogate(
        logps, old, advantages, weights, low=0.2, high=0.28, dual=dual
    )
    loss, metrics = jax.jit(lambda *xs: dapo_loss(*xs, dual_clip=dual))(
        *(jnp.asarray(x, jnp.float32) for x in (logps, old, advantages, weights))
    )
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    np.testing.assert_allclose(metrics["policy/clip_fraction"], clipped, rtol=1e-5)
    assert ("policy/dual_clip_fraction" in metrics) == (dual is not None)


@pytest.mark.parametrize("buffer_len", [0, 4])
def test_prepare_matches_oracle(rollout, buffer_len):
    config = DAPOConfig(
        group_size=4, max_new_tokens=6, overlong_buffer_len=buffer_len, overlong_factor=0.5
    )
    batch, aux, metrics = jax.jit(dapo.make(config, make_model()).prepare)(rollout, {})
    rewards, lengths = (
        np.asarray(rollout.rewards, np.float64),
        np.asarray(rollout.completion_mask.sum(1)),
    )
    penalties = np.array(
        [oracle.overlong(int(n), 6, buffer_len, 0.5) if buffer_len else 0.0 for n in lengths]
    )
    groups = (rewards + penalties).reshape(4, 4)
    rows = oracle.group_advantages(groups, ~np.isnan(groups)).reshape(-1)
    np.testing.assert_allclose(
        batch.advantages,
        np.where(rollout.completion_mask, rows[:, None], 0.0),
        rtol=1e-4,
        atol=1e-6,
    )
    # before the penalty
    np.testing.assert_allclose(metrics["rewards/mean"], np.nanmean(rewards), rtol=1e-5)
    if buffer_len:
        assert penalties.min() < 0
        np.testing.assert_allclose(
            metrics["rewards/overlong_penalty"], penalties[lengths > 0].mean(), rtol=1e-5
        )
    else:
        assert "rewards/overlong_penalty" not in metrics
    assert aux == {}


def test_filtering_drops_truncated_rows_from_the_loss_only(rollout):
    plain, filtering = (
        dapo.make(DAPOConfig(overlong_filtering=x, max_new_tokens=6), make_model())
        for x in (False, True)
    )
    truncated = np.asarray(rollout.truncated)
    kept, dropped = plain.weigh(rollout).weights, filtering.weigh(rollout).weights
    assert (np.asarray(kept)[truncated & ~np.isnan(rollout.rewards)].sum(1) > 0).any()
    assert (np.asarray(dropped)[truncated] == 0).all()
    np.testing.assert_allclose(dropped.sum(), 1.0, rtol=1e-6)
    for algorithm in (plain, filtering):
        batch, _, _ = algorithm.prepare(rollout, {})
        np.testing.assert_array_equal(batch.advantages, plain.prepare(rollout, {})[0].advantages)


def test_no_reference_is_needed():
    assert dapo.make(DAPOConfig(max_new_tokens=6), make_model()).needs == {}


def test_a_punishment_needs_a_limit():
    with pytest.raises(
        ValueError,
        match="max_new_tokens is None: give the generation limit, or overlong_buffer_len=0",
    ):
        dapo.make(DAPOConfig(), make_model())
    assert dapo.punished_tokens(DAPOConfig(max_new_tokens=20_480)) == 4096  # the paper's
    assert dapo.punished_tokens(DAPOConfig(overlong_buffer_len=0)) == 0


def test_groups_must_be_whole(rollout):
    with pytest.raises(ValueError, match="16 completions do not divide into groups: group_size=3"):
        dapo.make(DAPOConfig(group_size=3, overlong_buffer_len=0), make_model()).prepare(
            rollout, {}
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"overlong_buffer_len": 600, "max_new_tokens": 512},
            "overlong_buffer_len=600 is out of range: .* overlong_buffer_len <= 512",
        ),
        ({"overlong_factor": -1.0}, "overlong_factor=-1.0 is out of range"),
        ({"clip_high": 0.0}, "clip_high=0.0 is out of range"),
        ({"dual_clip": 1.0}, "dual_clip=1.0 is out of range"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        DAPOConfig(**options)
