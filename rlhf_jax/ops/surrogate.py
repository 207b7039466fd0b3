"""Clipped policy and value losses, averaged by a weight array.

Three policy losses share their inputs' treatment (`_inputs`) and their metrics: the clipped
surrogate with its dual clip and sequence level, CISPO, and, for the critic, the clipped value loss.
Each docstring has the equation and where it is from.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from rlhf_jax.ops.checks import check_choice, check_range
from rlhf_jax.ops.logprobs import LOG_RATIO_LIMIT, log_ratio
from rlhf_jax.ops.masking import masked, weighted_sum
from rlhf_jax.ops.precision import Scalar, promote
from rlhf_jax.types import Metrics

LEVELS = ("token", "sequence")


def clipped_surrogate_loss(
    logps: Float[Array, "B T"],
    old_logps: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    weights: Float[Array, "B T"],
    *,
    clip_low: Scalar = 0.2,
    clip_high: Scalar = 0.2,
    dual_clip: Scalar | None = None,
    level: str = "token",
) -> tuple[Float[Array, ""], Metrics]:
    """Clipped policy-gradient loss, summed with per-token weights.

        L = - sum_t w_t min(r_t A_t, clip(r_t, 1 - eps_low, 1 + eps_high) A_t),
        r_t = exp(logps_t - old_logps_t)
        dual clip:  for A_t < 0 the min is replaced by max(min(...), c A_t)
        level="sequence":  r = exp(mean over the row of (logps_t - old_logps_t)), the same for all
                           tokens of the row

    PPO eq. 7 (Schulman et al. 2017, arXiv:1707.06347); eps_low != eps_high is DAPO eq. 8
    (arXiv:2503.14476); the dual clip is Ye et al. 2020 (arXiv:1912.09729), section on dual-clip
    PPO; the sequence level is GSPO eq. 5 and 7 (arXiv:2507.18071), with the plain gradient through
    the mean. Differences: the papers average over timesteps, here the average is in `weights` (see
    `loss_weights`); log-ratios are clamped to +-20 with gradient 0 beyond (see `log_ratio`).

    Args:
      logps: log π of the sampled tokens, nats. Gradients flow through this argument only.
      old_logps: the same tokens under the policy before the update, at the same temperature, nats.
      advantages: A_t, reward units.
      weights: non-negative, 0 on padding; sums to 1 over the optimizer step's batch (modes token
        and sequence).
      clip_low: eps_low >= 0.
      clip_high: eps_high >= 0.
      dual_clip: c > 1, or None for none.
      level: "token" or "sequence".

    Returns:
      (loss, metrics); metrics: policy/clip_fraction, policy/clip_fraction_low,
      policy/clip_fraction_high (weighted share of tokens whose clip binds),
      policy/dual_clip_fraction (with dual_clip), policy/approx_kl (k3 of KL(old || policy), nats
      per token), policy/ratio_max.

    Raises:
      ValueError: unknown level; negative clip; dual_clip <= 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops import clipped_surrogate_loss
      >>> logps, old = jnp.log(jnp.array([[0.9, 0.3]])), jnp.log(jnp.array([[0.6, 0.6]]))
      >>> advantages, weights = jnp.array([[1.0, -1.0]]), jnp.full((1, 2), 0.5)
      >>> loss, metrics = clipped_surrogate_loss(logps, old, advantages, weights)
      >>> print(f"{loss:.4f} {metrics['policy/clip_fraction']:.1f}")
      -0.2000 1.0
    """
    check_choice("level", level, LEVELS)
    check_range("clip_low", clip_low, low=0)
    check_range("clip_high", clip_high, low=0)
    check_range("dual_clip", dual_clip, above=1)
    logps, old_logps, advantages, weights = _inputs(logps, old_logps, advantages, weights)
    token_log_ratio = log_ratio(logps, old_logps)
    ratio = jnp.exp(
        token_log_ratio if level == "token" else _row_log_ratio(logps, old_logps, weights)
    )
    plain = ratio * advantages
    gain = jnp.minimum(plain, jnp.clip(ratio, 1 - clip_low, 1 + clip_high) * advantages)
    low = (ratio < 1 - clip_low) & (advantages < 0)
    high = (ratio > 1 + clip_high) & (advantages > 0)
    metrics = _ratio_metrics(token_log_ratio, ratio, weights, low, high)
    if dual_clip is not None:
        floor = dual_clip * advantages
        bound = (advantages < 0) & (gain < floor)
        gain = jnp.where(bound, floor, gain)
        metrics["policy/dual_clip_fraction"] = weighted_sum(bound.astype(weights.dtype), weights)
    return -weighted_sum(gain, weights), metrics


def cispo_loss(
    logps: Float[Array, "B T"],
    old_logps: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    weights: Float[Array, "B T"],
    *,
    min_ratio: Scalar = 0.0,
    max_ratio: Scalar = 5.0,
) -> tuple[Float[Array, ""], Metrics]:
    """REINFORCE with a clipped, gradient-stopped importance weight: every token keeps its gradient.

        L = - sum_t w_t sg(clip(r_t, min_ratio, max_ratio)) A_t logps_t,
        r_t = exp(logps_t - old_logps_t)

    CISPO, eq. 4 and 5 of MiniMax-M1 (arXiv:2506.13585): min_ratio = 1 - eps_low^IS, max_ratio = 1 +
    eps_high^IS; the paper has no lower clip in practice, hence the default 0. TRL calls the cap
    itself epsilon_high (and defaults it to 0.2, a trap). Differences: log-ratios are clamped to
    +-20; the average is in `weights`.

    Args:
      logps: log π of the sampled tokens, nats. Gradients flow through this argument only, and not
        through the ratio.
      old_logps: the same tokens under the policy before the update, nats.
      advantages: A_t, reward units.
      weights: non-negative, 0 on padding.
      min_ratio: smallest importance weight, in [0, 1].
      max_ratio: largest importance weight, >= 1.

    Returns:
      (loss, metrics); metrics as `clipped_surrogate_loss`, where clip_fraction counts ratios
      outside the two bounds.

    Raises:
      ValueError: min_ratio or max_ratio out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops import cispo_loss
      >>> logps, one = jnp.array([[-2.0]]), jnp.ones((1, 1))
      >>> loss, _ = cispo_loss(logps, jnp.array([[-4.0]]), one, one)
      >>> print(loss)  # exp(2) = 7.39 is cut to 5
      10.0
    """
    check_range("min_ratio", min_ratio, low=0, high=1)
    check_range("max_ratio", max_ratio, low=1)
    logps, old_logps, advantages, weights = _inputs(logps, old_logps, advantages, weights)
    log_ratios = lax.stop_gradient(log_ratio(logps, old_logps))
    ratio = jnp.exp(log_ratios)
    metrics = _ratio_metrics(log_ratios, ratio, weights, ratio < min_ratio, ratio > max_ratio)
    return -weighted_sum(
        jnp.clip(ratio, min_ratio, max_ratio) * advantages * logps, weights
    ), metrics


def truncated_importance_weights(
    old_logps: Float[Array, "B T"],
    sampler_logps: Float[Array, "B T"],
    weights: Float[Array, "B T"],
    *,
    cap: Scalar,
) -> tuple[Float[Array, "B T"], Metrics]:
    """Corrects for a sampler whose probabilities are not quite the trainer's.

        c_t = min(exp(old_logps_t - sampler_logps_t), cap)

    Multiply the advantages by it. Truncated importance sampling between inference engine and
    trainer, per token, as in verl (`rollout_is`, threshold 2) and TRL. Differences: log-ratios are
    clamped to +-20; 1 off the weights.

    Args:
      old_logps: of the sampling policy by the trainer, nats.
      sampler_logps: of the same policy by the sampler, nats.
      weights: of the loss, 0 on padding.
      cap: largest weight, > 0.

    Returns:
      (c [B, T] without gradient, metrics); metrics: sampler/capped (weighted share of tokens cut at
      the cap).

    Raises:
      ValueError: cap not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops import truncated_importance_weights
      >>> old, sampler = jnp.log(jnp.array([[0.5, 0.9]])), jnp.log(jnp.array([[0.25, 0.1]]))
      >>> weights = jnp.full((1, 2), 0.5)
      >>> corrections, metrics = truncated_importance_weights(old, sampler, weights, cap=3.0)
      >>> print(corrections.round(4), metrics["sampler/capped"])
      [[2. 3.]] 0.5
    """
    check_range("cap", cap, above=0)
    old_logps, sampler_logps, weights = promote(old_logps, sampler_logps, weights)
    keep = weights != 0
    ratio = lax.stop_gradient(
        jnp.exp(log_ratio(masked(old_logps, keep), masked(sampler_logps, keep)))
    )
    return jnp.minimum(ratio, cap), {
        "sampler/capped": weighted_sum((ratio > cap).astype(weights.dtype), weights)
    }


def clipped_value_loss(
    values: Float[Array, "B T"],
    old_values: Float[Array, "B T"],
    returns: Float[Array, "B T"],
    weights: Float[Array, "B T"],
    *,
    clip: Scalar | None = 0.2,
) -> tuple[Float[Array, ""], Metrics]:
    """Squared error of the critic, kept within `clip` of the old values in one batch.

        L = 1/2 sum_t w_t max((V_t - R_t)^2, (V'_t - R_t)^2),
        V'_t = old_t + clip(V_t - old_t, -c, c)

    The form of OpenAI baselines, TRL and verl, described by Engstrom et al. 2020 (arXiv:2005.12729,
    "value function clipping"); PPO itself (arXiv:1707.06347, eq. 9) has the plain squared error:
    clip=None.

    Args:
      values: V_t of the current critic, reward units. Gradients flow through this argument only.
      old_values: the critic's values before the update.
      returns: targets R_t.
      weights: non-negative, 0 on padding.
      clip: c > 0, reward units; None for no clipping.

    Returns:
      (loss, metrics); metrics: value/clip_fraction (weighted share of tokens where the clipped
      error is the larger one).

    Raises:
      ValueError: clip not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops import clipped_value_loss
      >>> one = jnp.ones((1, 1))
      >>> # the clipped value is 0.2: the error stays 0.8
      >>> loss, _ = clipped_value_loss(one, 0 * one, one, one)
      >>> print(f"{loss:.4f}")
      0.3200
    """
    check_range("clip", clip, above=0)
    values, old_values, returns, weights = _inputs(values, old_values, returns, weights)
    errors = (values - returns) ** 2
    clipped_errors = errors
    if clip is not None:
        # Bounds around the old value, not a clipped difference added to it: what is inside stays
        # the same number, and rounding is not counted as clipping.
        near = jnp.clip(values, old_values - clip, old_values + clip)
        clipped_errors = (near - returns) ** 2
    fraction = weighted_sum((clipped_errors > errors).astype(weights.dtype), weights)
    return 0.5 * weighted_sum(jnp.maximum(errors, clipped_errors), weights), {
        "value/clip_fraction": fraction
    }


def _inputs(x: Array, *constants: Array) -> tuple[Array, ...]:
    """Promotes all, stops gradients of all but the first, zeroes all where the last is 0."""
    x, *rest = promote(x, *constants)
    rest = [lax.stop_gradient(c) for c in rest]
    keep = rest[-1] != 0
    return tuple(masked(c, keep) for c in (x, *rest))


def _row_log_ratio(
    logps: Float[Array, "B T"], old_logps: Float[Array, "B T"], weights: Float[Array, "B T"]
) -> Float[Array, "B T"]:
    """The row's mean log-ratio over its weighted tokens, on each column, clamped as `log_ratio`."""
    count = jnp.maximum(jnp.sum(weights != 0, axis=1), 1).astype(logps.dtype)
    mean = jnp.clip(jnp.sum(logps - old_logps, axis=1) / count, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return jnp.broadcast_to(mean[:, None], logps.shape)


def _ratio_metrics(
    log_ratios: Array, ratio: Array, weights: Array, low: Array, high: Array
) -> Metrics:
    """What tells how far the policy has moved from the one that sampled."""
    low_fraction = weighted_sum(low.astype(weights.dtype), weights)
    high_fraction = weighted_sum(high.astype(weights.dtype), weights)
    return {
        "policy/clip_fraction": low_fraction + high_fraction,
        "policy/clip_fraction_low": low_fraction,
        "policy/clip_fraction_high": high_fraction,
        "policy/approx_kl": weighted_sum(jnp.expm1(log_ratios) - log_ratios, weights),
        "policy/ratio_max": lax.stop_gradient(jnp.max(masked(ratio, weights != 0), initial=0.0)),
    }
