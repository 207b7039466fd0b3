"""Every metric an algorithm reports, and what it means. The documentation's table is made from this
dict.

Per-token metrics are averaged with the loss's own weights, so they add up over microbatches like
the loss; keys that end in `_max` or `_min` are reduced by max or min. With `aggregation="constant"`
the weights do not sum to 1: divide by `loss/weight`.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from rlhf_jax.ops import masked, masked_mean, weighted_sum
from rlhf_jax.ops.checks import is_zero
from rlhf_jax.ops.precision import Scalar, default_float, promote
from rlhf_jax.types import Metrics, PolicyBatch

METRICS: dict[str, str] = {
    "loss/total": "what is minimised",
    "loss/policy": "clipped policy-gradient part of the loss",
    "loss/preference": "DPO with `sft` among several losses: the others, by their weights",
    "loss/sft": (
        "DPO with `sft` among several losses: negative log-likelihood of the chosen answers before "
        "its weight, nats per token"
    ),
    "loss/value": "critic's part of the loss, before vf_coef",
    "loss/weight": (
        "sum of the loss weights: 1, unless aggregation is constant or the batch holds nothing "
        "to train on"
    ),
    "kl/ref": (
        "KL(policy || reference), nats per token (PPO: k1 of the sampling policy; GRPO: the "
        "estimator of the loss)"
    ),
    "kl/ref_sequence": (
        "the same summed over a completion, nats per completion; the adaptive controller's input. "
        "At evaluations: of the samples, to `evaluation.reference`"
    ),
    "kl/baseline": (
        "KTO: KL(policy || reference) on answers to other prompts, at least 0, nats per "
        "completion; what log-ratios are compared with"
    ),
    "kl/coef": "coefficient of the KL penalty in the reward",
    "policy/entropy": "entropy of the policy's next-token distribution, nats per token",
    "accuracy/token": "SFT: share of trained tokens that the model finds the likeliest",
    "policy/clip_fraction": (
        "share of tokens whose clip binds, and whose gradient is therefore 0 (CISPO: whose "
        "weight is cut)"
    ),
    "policy/clip_fraction_low": "the part below the lower bound",
    "policy/clip_fraction_high": "the part above the upper bound",
    "policy/dual_clip_fraction": "share of tokens held by the dual clip",
    "policy/approx_kl": "KL(policy before the update || policy), k3 estimate, nats per token",
    "policy/ratio_max": "largest importance ratio",
    "value/clip_fraction": "share of tokens where the clipped value error is the larger one",
    "value/explained_variance": (
        "1 - var(returns - values) / var(returns); 1 is a perfect critic, 0 a constant one"
    ),
    "rewards/mean": (
        "mean reward of gradable completions, before any penalty (reward model: mean score of a "
        "pair)"
    ),
    "rewards/std": "standard deviation of the same over the batch",
    "rewards/group_std": (
        "mean over groups of the standard deviation inside a group, penalties included"
    ),
    "rewards/zero_std_groups": (
        "share of groups whose rewards, penalties included, are all equal: they teach nothing"
    ),
    "rewards/ungraded": "share of completions that could not be graded (NaN)",
    "rewards/overlong_penalty": "mean length penalty",
    "rewards/chosen": (
        "chosen answers: beta * log(policy / reference) for DPO, and for KTO of desirable ones "
        "(NaN: the step has none); score for a reward model"
    ),
    "rewards/rejected": "rejected (KTO: undesirable) answers, the same",
    "rewards/margin": "rewards/chosen - rewards/rejected",
    "rewards/accuracy": (
        "share of pairs with chosen above rejected, ties by half: 0.5 where policy and reference "
        "are equal (KTO: share of answers on their right side of kl/baseline)"
    ),
    "logps/chosen": "log-probability of the chosen answer under the policy, nats",
    "logps/rejected": "log-probability of the rejected answer under the policy, nats",
    "length/mean": "completion length, tokens",
    "length/truncated": "share of completions that reached the length limit without EOS",
    "sampler/logp_diff": (
        "mean |log-probability by trainer - by sampler| on completions of the current policy, "
        "nats per token"
    ),
    "sampler/logp_diff_max": "largest such difference",
    "sampler/on_policy": (
        "share of the loss weight on completions sampled by the very parameters being updated"
    ),
    "sampler/capped": (
        "share of tokens whose importance weight between sampler and trainer is cut at "
        "importance_cap"
    ),
}


def rollout_metrics(batch: PolicyBatch) -> Metrics:
    """What was sampled: rewards, lengths, truncation.

    Args:
      batch: the whole rollout, rewards before any penalty; rows with an empty completion only
        complete the shape.

    Returns:
      rewards/mean, rewards/std (NaN when nothing was graded), rewards/ungraded, length/mean,
      length/truncated.
    """
    sampled = jnp.any(batch.completion_mask, axis=1)
    graded = sampled & ~jnp.isnan(batch.rewards)
    (rewards,) = promote(batch.rewards)
    mean = _mean_or_nan(rewards, graded)
    lengths = jnp.sum(batch.completion_mask, axis=1).astype(default_float())
    return {
        "rewards/mean": mean,
        "rewards/std": jnp.sqrt(_mean_or_nan((masked(rewards, graded) - mean) ** 2, graded)),
        "rewards/ungraded": masked_mean((~graded).astype(default_float()), sampled),
        "length/mean": masked_mean(lengths, sampled),
        "length/truncated": masked_mean(batch.truncated.astype(default_float()), sampled),
    }


def entropy_bonus(
    entropy: Float[Array, "B T"] | None, weights: Float[Array, "B T"], coef: Scalar
) -> tuple[Float[Array, ""] | None, Metrics]:
    """What a loss rewards entropy with.

    Args:
      entropy: nats. Gradients flow when the coefficient is not 0; None: it was not computed.
      weights: of the loss.
      coef: entropy_coef.

    Returns:
      (coef * sum_t w_t H_t, or None without a coefficient; {policy/entropy}, or nothing without
      entropy).

    Raises:
      ValueError: a coefficient without entropy.
    """
    has_bonus = not is_zero(coef)
    if entropy is None:
        if has_bonus:
            raise ValueError(f"entropy_coef={coef!r} needs entropy: pass it, or set entropy_coef=0")
        return None, {}
    mean = weighted_sum(entropy if has_bonus else lax.stop_gradient(entropy), weights)
    return coef * mean if has_bonus else None, {"policy/entropy": lax.stop_gradient(mean)}


def sampler_metrics(
    batch: PolicyBatch, trainer_logps: Float[Array, "B T"], weights: Float[Array, "B T"]
) -> Metrics:
    """How far sampler and trainer disagree about the tokens that the current policy sampled.

    Args:
      batch: rollout or a part of it.
      trainer_logps: by the trainer, of the policy that sampled (`forward.behaviour_logps`), nats.
      weights: of the loss, over the whole optimizer step.

    Returns:
      Nothing when the sampler reported no log-probabilities; else sampler/logp_diff (a weighted
      sum: with `on_policy` it is to be divided by sampler/on_policy once all parts are added up, as
        `training.make_epochs` does), sampler/logp_diff_max and, with
      `on_policy`, sampler/on_policy.
    """
    if batch.sampler_logps is None:
        return {}
    trainer, sampler, weights = promote(trainer_logps, batch.sampler_logps, weights)
    if batch.on_policy is not None:
        weights = jnp.where(batch.on_policy[:, None], weights, 0.0)
    difference = lax.stop_gradient(
        jnp.abs(masked(trainer, weights != 0) - masked(sampler, weights != 0))
    )
    metrics = {
        "sampler/logp_diff": weighted_sum(difference, weights),
        "sampler/logp_diff_max": jnp.max(difference, initial=0.0),
    }
    return metrics if batch.on_policy is None else metrics | {"sampler/on_policy": jnp.sum(weights)}


def group_metrics(rewards: Float[Array, "P G"]) -> Metrics:
    """How much the completions of a prompt differ: what a group-relative advantage lives on.

    Args:
      rewards: as they enter the advantage, one group a row; NaN = not gradable, a row of NaN only
        completes the shape.

    Returns:
      rewards/group_std (unbiased), rewards/zero_std_groups; NaN when nothing was graded.
    """
    (rewards,) = promote(rewards)
    graded = ~jnp.isnan(rewards)
    rewards = masked(rewards, graded)
    count = jnp.sum(graded, axis=1, keepdims=True).astype(rewards.dtype)
    centred = masked(
        rewards - jnp.sum(rewards, axis=1, keepdims=True) / jnp.maximum(count, 1), graded
    )
    spread = jnp.sqrt(jnp.sum(centred**2, axis=1, keepdims=True) / jnp.maximum(count - 1, 1))
    highest = jnp.max(rewards, axis=1, keepdims=True, where=graded, initial=-jnp.inf)
    lowest = jnp.min(rewards, axis=1, keepdims=True, where=graded, initial=jnp.inf)
    return {
        "rewards/group_std": _mean_or_nan(spread, count > 0),
        "rewards/zero_std_groups": _mean_or_nan(
            (highest == lowest).astype(rewards.dtype), count > 0
        ),
    }


def _mean_or_nan(x: Float[Array, "..."], mask: Bool[Array, "..."]) -> Float[Array, ""]:
    """A mean over nothing is not 0."""
    return jnp.where(jnp.any(mask), masked_mean(x, mask), jnp.nan)
