"""Rewards before they become advantages, and which samples take part: KL, overlong, DAPO's."""

from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.ops.checks import check_range
from rlhf_jax.ops.masking import masked
from rlhf_jax.ops.precision import Scalar, default_float, promote

AnyArray: TypeAlias = Array | np.ndarray


def kl_shaped_rewards(
    scores: Float[Array, " B"],
    kl: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    kl_coef: Scalar,
    score_clip: float | None = None,
) -> Float[Array, "B T"]:
    """Per-token rewards: the KL penalty on every completion token, the score on the last one.

        r_t = - kl_coef * kl_t + [t is the last kept token] * clip(score, -score_clip, score_clip)

    Ziegler et al. 2019 (arXiv:1909.08593) eq. 2; InstructGPT (arXiv:2203.02155). kl_t is the k1
    estimate of the sampling policy against the reference. Differences: TRL's PPO puts the score one
    position *after* the last token; here it is on the last token itself, as in verl and OpenRLHF. A
    row without a kept token receives no score.

    Args:
      scores: score of the whole completion, reward units; NaN reaches only its own row's last
        token.
      kl: estimate of the KL per token, nats; ignored off the mask.
      mask: True = token chosen by the policy.
      kl_coef: reward units per nat.
      score_clip: largest |score|; None for no clipping.

    Returns:
      Rewards, 0 off the mask; no gradient.

    Raises:
      ValueError: score_clip not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops import kl_shaped_rewards
      >>> mask = jnp.array([[False, True, True, False]])
      >>> print(kl_shaped_rewards(jnp.array([2.0]), jnp.ones((1, 4)), mask, kl_coef=0.5))
      [[ 0.  -0.5  1.5  0. ]]
    """
    check_range("score_clip", score_clip, above=0)
    scores, kl = (lax.stop_gradient(x) for x in promote(scores, kl))
    if score_clip is not None:
        scores = jnp.clip(scores, -score_clip, score_clip)
    kept_from_here = jnp.cumsum(mask[:, ::-1], axis=1)[:, ::-1]
    last = mask & (kept_from_here == 1)
    return masked(jnp.broadcast_to(scores[:, None], kl.shape), last) - kl_coef * masked(kl, mask)


def overlong_penalty(
    lengths: Int[Array, "*shape"], *, max_len: int, buffer_len: int, factor: float = 1.0
) -> Float[Array, "*shape"]:
    """Soft punishment of completions that come near the length limit.

        0                                       if length <= max_len - buffer_len
        factor * ((max_len - buffer_len) - length) / buffer_len      between
        -factor                                 if length >= max_len

    DAPO eq. 13 (arXiv:2503.14476), with `factor` from verl's recipe. Lengths are in *tokens* (Tunix
    counts characters), and the penalty is clamped at -factor (verl's is not).

    Args:
      lengths: completion lengths, tokens, EOS included.
      max_len: L_max, tokens.
      buffer_len: L_cache, tokens, in 1..max_len.
      factor: the largest penalty, reward units.

    Returns:
      Penalties in [-factor, 0], float, same shape.

    Raises:
      ValueError: buffer_len not in 1..max_len.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops import overlong_penalty
      >>> print(overlong_penalty(jnp.array([5, 9, 10, 12]), max_len=10, buffer_len=4))
      [ 0.   -0.75 -1.   -1.  ]
    """
    check_range("buffer_len", buffer_len, low=1, high=max_len)
    excess = jnp.asarray(lengths, default_float()) - (max_len - buffer_len)
    return 0.0 - factor * jnp.clip(excess / buffer_len, 0, 1)


def overlong_filter(mask: Bool[Array, "B T"], truncated: Bool[Array, " B"]) -> Bool[Array, "B T"]:
    """Drops completions cut by the length limit: their reward says nothing about the answer.

    DAPO (arXiv:2503.14476), section 3.4, "overlong filtering". Only the loss mask changes; their
    rewards stay in the statistics of their group, as in TRL.

    Args:
      mask: tokens that are trained on.
      truncated: completion reached the limit without EOS.

    Returns:
      The smaller mask.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops import overlong_filter
      >>> print(overlong_filter(jnp.ones((2, 2), bool), jnp.array([True, False])).astype(int))
      [[0 0]
       [1 1]]
    """
    return mask & ~truncated[:, None]


def mixed_groups(
    correct: Bool[AnyArray, "P G"], valid: Bool[AnyArray, "P G"] | None = None
) -> Bool[AnyArray, " P"]:
    """Which groups teach: those with a right and a wrong answer, as dynamic sampling wants.

        keep = 0 < sum_i correct_i < G

    DAPO eq. 11 (arXiv:2503.14476). Give it the accuracy *before* any length penalty: two right
    answers of different length do not make a group worth keeping. G counts the valid completions
    only; a group with fewer than two is never kept.

    Args:
      correct: completion is right. JAX or NumPy, as the result.
      valid: completions that could be graded; None: all.

    Returns:
      True = keep the group.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops import mixed_groups
      >>> print(mixed_groups(jnp.array([[True, True], [True, False], [False, False]])))
      [False  True False]
    """
    # Operators and methods alone, so that the host's NumPy arrays stay on the host.
    right = correct if valid is None else correct & valid
    wrong = ~correct if valid is None else ~correct & valid
    mixed: Any = right.any(axis=1) & wrong.any(axis=1)
    return mixed
