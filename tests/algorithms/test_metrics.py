"""rollout_metrics and group_metrics by hand."""

import jax.numpy as jnp
import numpy as np

from rlhf_jax.algorithms.metrics import (
    METRICS,
    entropy_bonus,
    group_metrics,
    rollout_metrics,
    sampler_metrics,
)
from rlhf_jax.types import PolicyBatch

NAN = float("nan")


def make_rollout():
    completion = jnp.array([[0, 1, 1], [0, 1, 0], [0, 1, 1], [0, 0, 0]], bool)
    return PolicyBatch(
        tokens=jnp.zeros((4, 3), jnp.int32),
        mask=jnp.ones((4, 3), bool),
        completion_mask=completion,
        rewards=jnp.array([1.0, 3.0, NAN, NAN]),
        truncated=jnp.array([True, False, False, True]),
    )


def test_rollout_metrics():
    """The last row only completes the shape: it is in no mean."""
    got = {k: float(v) for k, v in rollout_metrics(make_rollout()).items()}
    wanted = {
        "rewards/mean": 2.0,
        "rewards/std": 1.0,
        "rewards/ungraded": 1 / 3,
        "length/mean": 5 / 3,
        "length/truncated": 1 / 3,
    }
    assert got.keys() == wanted.keys()
    np.testing.assert_allclose([got[k] for k in wanted], list(wanted.values()), rtol=1e-6)


def test_sampler_difference():
    old = jnp.array([[NAN, -1.0, -2.0], [0.0, -1.0, NAN], [0.0, -1.0, -1.0], [NAN] * 3])
    sampler = jnp.array([[0.0, -1.5, -2.0], [0.0, -1.0, NAN], [0.0, -1.0, 0.0], [0.0] * 3])
    weights = jnp.where(make_rollout().completion_mask, 0.2, 0.0)
    got = sampler_metrics(make_rollout()._replace(sampler_logps=sampler), old, weights)
    np.testing.assert_allclose(
        [got["sampler/logp_diff"], got["sampler/logp_diff_max"]], [0.3, 1.0], rtol=1e-6
    )
    assert sampler_metrics(make_rollout(), old, weights) == {}


def test_sampler_difference_leaves_out_rows_of_an_older_policy():
    batch = make_rollout()._replace(
        sampler_logps=jnp.zeros((4, 3)), on_policy=jnp.array([False, True, True, False])
    )
    weights = jnp.where(batch.completion_mask, 0.2, 0.0)
    got = sampler_metrics(
        batch, jnp.where(batch.on_policy[:, None], -1.0, -9.0) * jnp.ones((4, 3)), weights
    )
    np.testing.assert_allclose(got["sampler/on_policy"], weights[1:3].sum(), rtol=1e-6)
    np.testing.assert_allclose(got["sampler/logp_diff"] / got["sampler/on_policy"], 1.0, rtol=1e-6)
    assert float(got["sampler/logp_diff_max"]) == 1.0


def test_group_metrics():
    """A spread of 1, equal rewards, one graded completion, and a filler that is in no mean."""
    got = group_metrics(
        jnp.array([[0.0, 1.0, 2.0], [0.1, 0.1, 0.1], [5.0, NAN, NAN], [NAN, NAN, NAN]])
    )
    np.testing.assert_allclose(
        [got["rewards/group_std"], got["rewards/zero_std_groups"]], [1 / 3, 2 / 3], rtol=1e-6
    )


def test_every_description_is_one_line():
    assert all(text and "\n" not in text for text in METRICS.values())


def test_a_mean_over_nothing_is_not_zero():
    nothing = make_rollout()
    nothing = nothing._replace(rewards=jnp.full_like(nothing.rewards, NAN))
    got = rollout_metrics(nothing) | group_metrics(jnp.full((2, 3), NAN))
    means = ("rewards/mean", "rewards/std", "rewards/group_std", "rewards/zero_std_groups")
    assert all(jnp.isnan(got[name]) for name in means)
    assert float(got["rewards/ungraded"]) == 1.0 and float(got["length/mean"]) > 0


def test_no_entropy_is_no_metric():
    weights = jnp.array([[0.25, 0.75]])
    assert entropy_bonus(None, weights, 0.0) == (None, {})
    bonus, got = entropy_bonus(jnp.array([[2.0, 4.0]]), weights, 0.0)
    assert bonus is None and set(got) == {"policy/entropy"} and float(got["policy/entropy"]) == 3.5
    assert float(entropy_bonus(jnp.array([[2.0, 4.0]]), weights, 0.5)[0]) == 1.75
