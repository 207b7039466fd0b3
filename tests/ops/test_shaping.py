"""kl_shaped_rewards, overlong_penalty, overlong_filter, mixed_groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.ops import kl_shaped_rewards, mixed_groups, overlong_filter, overlong_penalty
from tests.oracles import policy as oracle


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("jit", [False, True])
def test_shaped_rewards_match_oracle(clip, jit):
    rng = np.random.default_rng(6)
    scores, kl, mask = rng.normal(size=4), rng.normal(size=(4, 7)), rng.random((4, 7)) < 0.6
    mask[1] = False
    kl[~mask] = np.nan

    def f(s, k, m):
        return kl_shaped_rewards(s, k, m, kl_coef=0.05, score_clip=clip)

    got = (jax.jit(f) if jit else f)(
        jnp.asarray(scores, jnp.float32), jnp.asarray(kl, jnp.float32), jnp.asarray(mask)
    )
    np.testing.assert_allclose(
        got, oracle.shaped_rewards(scores, kl, mask, 0.05, clip), rtol=1e-5, atol=1e-7
    )


def test_fractional_scores_survive_and_ungraded_rows_stay_alone():
    """Scores of 0.75 and -0.4 stay what they are (Tunix truncates them to 0)."""
    mask = jnp.array([[True, True], [True, False], [True, True]])
    got = kl_shaped_rewards(jnp.array([0.75, -0.4, jnp.nan]), jnp.zeros((3, 2)), mask, kl_coef=0.1)
    np.testing.assert_array_equal(got[:2], np.float32([[0.0, 0.75], [-0.4, 0.0]]))
    assert float(got[2, 0]) == 0.0 and jnp.isnan(got[2, 1])


def test_shaped_rewards_have_no_gradient_and_promote():
    mask = jnp.ones((1, 2), bool)
    gradients = jax.grad(
        lambda s, k: kl_shaped_rewards(s, k, mask, kl_coef=0.1).sum(), argnums=(0, 1)
    )(jnp.ones(1), jnp.ones((1, 2)))
    assert all((g == 0).all() for g in gradients)
    assert (
        kl_shaped_rewards(
            jnp.ones(1, jnp.bfloat16), jnp.ones((1, 2), jnp.bfloat16), mask, kl_coef=0.1
        ).dtype
        == jnp.float32
    )


def test_score_clip_must_be_positive():
    with pytest.raises(ValueError, match="score_clip=-1.0"):
        kl_shaped_rewards(
            jnp.ones(1), jnp.ones((1, 1)), jnp.ones((1, 1), bool), kl_coef=0.1, score_clip=-1.0
        )


@pytest.mark.parametrize(("factor", "buffer_len"), [(1.0, 4), (0.5, 1), (2.0, 16)])
def test_overlong_penalty_matches_oracle(factor, buffer_len):
    lengths = np.arange(0, 20)
    got = jax.jit(lambda n: overlong_penalty(n, max_len=16, buffer_len=buffer_len, factor=factor))(
        jnp.asarray(lengths)
    )
    wanted = [oracle.overlong(int(n), 16, buffer_len, factor) for n in lengths]
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert got.dtype == jnp.float32


def test_overlong_penalty_by_hand():
    """L_max 100, L_cache 20: free to 80 tokens, -1/20 at 81, -1/2 at 90, -1 from 100 on."""
    got = overlong_penalty(jnp.array([0, 80, 81, 90, 100, 500]), max_len=100, buffer_len=20)
    np.testing.assert_allclose(got, [0.0, 0.0, -0.05, -0.5, -1.0, -1.0], rtol=1e-6)


@pytest.mark.parametrize("buffer_len", [0, 101])
def test_overlong_buffer_must_fit(buffer_len):
    with pytest.raises(
        ValueError,
        match=f"buffer_len={buffer_len} is out of range: .* buffer_len >= 1 and buffer_len <= 100",
    ):
        overlong_penalty(jnp.array([1]), max_len=100, buffer_len=buffer_len)


def test_overlong_filter():
    mask = jnp.array([[True, False], [True, True]])
    np.testing.assert_array_equal(
        overlong_filter(mask, jnp.array([False, True])), [[True, False], [False, False]]
    )


@pytest.mark.parametrize(
    ("correct", "valid", "keep"),
    [
        ([1, 1, 1], None, False),
        ([0, 0, 0], None, False),
        ([1, 0, 0], None, True),
        ([1, 0, 0], [1, 0, 0], False),  # the wrong ones could not be graded
        ([1, 0, 0], [0, 1, 1], False),
        ([1, 0, 1], [1, 1, 0], True),
        ([1, 0, 0], [0, 0, 0], False),
    ],
)
def test_mixed_groups(correct, valid, keep):
    valid = None if valid is None else jnp.array([valid], bool)
    assert bool(jax.jit(mixed_groups)(jnp.array([correct], bool), valid)[0]) == keep


def test_mixed_groups_of_one_are_never_kept():
    assert not mixed_groups(jnp.array([[True], [False]])).any()
