"""Advantage estimators. Their results are targets: no gradient flows through any of them."""

from typing import Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from rlhf_jax.ops.checks import check_choice
from rlhf_jax.ops.masking import masked
from rlhf_jax.ops.precision import Scalar, promote


def gae(
    rewards: Float[Array, "B T"],
    values: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    gamma: Scalar = 1.0,
    gae_lambda: Scalar = 0.95,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Generalised advantage estimation over the kept tokens of each row.

        delta_t = r_t + gamma V_{t+1} - V_t,  A_t = delta_t + gamma lambda A_{t+1},  R_t = A_t + V_t

    where t+1 is the *next kept token* and V, A are 0 after the last one. GAE eq. 16 (Schulman et
    al. 2016, arXiv:1506.02438); PPO eq. 11 and 12 (arXiv:1707.06347). Masked positions inside a row
    (the words of a tool between two turns) are skipped, value and advantage carried across them, as
    in verl; OpenRLHF treats them as states of value 0.

    Args:
      rewards: reward of each token; ignored off the mask, NaN included.
      values: V_t, value of the state in which token t is chosen; ignored off the mask.
      mask: True = token chosen by the policy.
      gamma: discount in [0, 1].
      gae_lambda: lambda in [0, 1].

    Returns:
      (advantages, returns), both 0 off the mask; not whitened; no gradient.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops import gae
      >>> rewards, values = jnp.array([[0.0, 1.0]]), jnp.array([[0.5, 0.5]])
      >>> advantages, returns = gae(rewards, values, jnp.ones((1, 2), bool), gae_lambda=1.0)
      >>> print(advantages, returns)
      [[0.5 0.5]] [[1. 1.]]
    """
    rewards, values = (lax.stop_gradient(masked(x, mask)) for x in promote(rewards, values))

    def backward(
        carry: tuple[Array, Array], step: tuple[Array, Array, Array]
    ) -> tuple[tuple[Array, Array], Array]:
        next_value, next_advantage = carry
        reward, value, kept = step
        advantage = reward + gamma * next_value - value + gamma * gae_lambda * next_advantage
        carry = jnp.where(kept, value, next_value), jnp.where(kept, advantage, next_advantage)
        return carry, masked(advantage, kept)

    end = jnp.zeros_like(values, shape=values.shape[:1])
    _, advantages = lax.scan(backward, (end, end), (rewards.T, values.T, mask.T), reverse=True)
    return advantages.T, masked(advantages.T + values, mask)


def group_advantages(
    rewards: Float[Array, "P G"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    normalize_std: bool | Literal["batch"] = True,
    eps: float = 1e-4,
    ddof: int = 1,
) -> Float[Array, "P G"]:
    """Reward of each completion relative to its group: the critic-free advantage of GRPO.

        A_i = (r_i - mean(r)) / (std(r) + eps)

    GRPO (Shao et al. 2024, arXiv:2402.03300), section 4.1.2 (outcome supervision); DAPO eq. 9
    (arXiv:2503.14476); normalize_std=False is Dr. GRPO (arXiv:2503.20783). TRL has ddof 1 and eps
    1e-4, verl ddof 1 and 1e-6, EasyDeL ddof 0. Differences: a group whose valid rewards are all
    equal gets *exactly* 0 (rounding of the mean would be divided by eps), and so does a group of
    one (verl returns the raw score); an ungradable completion is not in the statistics and gets 0.

    Args:
      rewards: one group a row; NaN = could not be graded.
      valid: completions that count; None: all. NaN rewards never count.
      normalize_std: divide by the group's standard deviation; "batch": by that of all rewards
        (Lite PPO, arXiv:2508.08221).
      eps: added to the standard deviation, reward units.
      ddof: 1 for the unbiased variance, 0 for the biased one.

    Returns:
      Advantages; no gradient.

    Raises:
      ValueError: ddof other than 0 or 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops import group_advantages
      >>> rewards = jnp.array([[1.0, 0.0, jnp.nan], [2.0, 2.0, 2.0]])
      >>> print(group_advantages(rewards, eps=0.0).round(4))
      [[ 0.7071 -0.7071  0.    ]
       [ 0.      0.      0.    ]]
    """
    check_choice("ddof", str(ddof), ("0", "1"))
    rewards, valid, count = _group(rewards, valid)
    mean = jnp.sum(rewards, axis=1, keepdims=True) / jnp.maximum(count, 1)
    centred = masked(rewards - mean, valid & ~_all_equal(rewards, valid))
    if not normalize_std:
        return centred
    if normalize_std == "batch":
        number = jnp.sum(count)
        from_mean = masked(rewards - jnp.sum(rewards) / jnp.maximum(number, 1), valid)
        variance = jnp.sum(from_mean**2) / jnp.maximum(number - ddof, 1)
    else:
        variance = jnp.sum(centred**2, axis=1, keepdims=True) / jnp.maximum(count - ddof, 1)
    spread = jnp.sqrt(variance)
    return centred / jnp.where(spread > 0, spread + eps, 1)


def leave_one_out_advantages(
    rewards: Float[Array, "P G"], valid: Bool[Array, "P G"] | None = None
) -> Float[Array, "P G"]:
    """Reward of each completion minus the mean of the *others* of its group.

        A_i = r_i - 1/(n-1) sum_{j != i} r_j

    RLOO (Ahmadian et al. 2024, arXiv:2402.14740), section on REINFORCE leave-one-out. Equal to
    n/(n-1) times the centred reward of Dr. GRPO. A group of one and a group of equal rewards get
    exactly 0.

    Args:
      rewards: one group a row; NaN = could not be graded.
      valid: completions that count; None: all. NaN rewards never count.

    Returns:
      Advantages; no gradient.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops import leave_one_out_advantages
      >>> print(leave_one_out_advantages(jnp.array([[1.0, 0.0, 0.5]])))
      [[ 0.75 -0.75  0.  ]]
    """
    rewards, valid, count = _group(rewards, valid)
    others = (jnp.sum(rewards, axis=1, keepdims=True) - rewards) / jnp.maximum(count - 1, 1)
    return masked(rewards - others, valid & ~_all_equal(rewards, valid))


def _group(
    rewards: Array, valid: Array | None
) -> tuple[Float[Array, "P G"], Bool[Array, "P G"], Float[Array, "P 1"]]:
    """(rewards with 0 where invalid, validity with NaN excluded, valid completions per group)."""
    (rewards,) = promote(rewards)
    graded = ~jnp.isnan(rewards)
    valid = graded if valid is None else valid & graded
    return (
        lax.stop_gradient(masked(rewards, valid)),
        valid,
        jnp.sum(valid, axis=1, keepdims=True).astype(rewards.dtype),
    )


def _all_equal(rewards: Float[Array, "P G"], valid: Bool[Array, "P G"]) -> Bool[Array, "P G"]:
    """Groups whose valid rewards are all the same number, on each of their columns."""
    highest = jnp.max(rewards, axis=1, keepdims=True, where=valid, initial=-jnp.inf)
    lowest = jnp.min(rewards, axis=1, keepdims=True, where=valid, initial=jnp.inf)
    return jnp.broadcast_to(highest <= lowest, rewards.shape)
