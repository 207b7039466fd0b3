"""Proximal policy optimisation with a critic, for completions scored by a reward.

    r_t = - kl_coef * k1_t + [last token] * score;   A = whiten(GAE(r, V))
    L = L_clip + vf_coef * L_value - entropy_coef * H

What gets credit: every token is compared with what the critic expected before it was chosen, so
that credit differs from token to token although the score comes once, at the end. GAE hands the
surprise back along the completion, fading with gae_lambda: near 1 trusts the sampled outcome, near
0 the critic. The KL penalty is part of the reward, so straying from the reference is judged like
any other consequence of a token.

PPO eq. 7 and 9 (Schulman et al. 2017, arXiv:1707.06347); the KL in the reward and its adaptive
coefficient are Ziegler et al. 2019 (arXiv:1909.08593) eq. 2 and section 2.2; GAE eq. 16
(arXiv:1506.02438).

Differences: the score lands on the last completion token (TRL: one later); advantages are whitened
with the unbiased variance of the whole rollout batch (TRL: per process); the controller's KL is
nats per completion, as in the paper (verl: per token), and its coefficient is part of the train
state; completions that could not be graded (NaN) carry no weight.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.algorithms.checks import gradable_tokens, require
from rlhf_jax.algorithms.forward import (
    before_update,
    behaviour_logps,
    logps_and_values,
    old_logps,
    ref_logps,
    values,
)
from rlhf_jax.algorithms.metrics import entropy_bonus, rollout_metrics, sampler_metrics
from rlhf_jax.checked import checked
from rlhf_jax.ops import (
    adaptive_kl_coef,
    clipped_surrogate_loss,
    clipped_value_loss,
    gae,
    kl_estimate,
    kl_shaped_rewards,
    loss_weights,
    masked,
    masked_mean,
    masked_whiten,
)
from rlhf_jax.ops.checks import check_choice, check_range, is_zero
from rlhf_jax.ops.precision import Scalar, promote
from rlhf_jax.types import (
    Algorithm,
    Key,
    Metrics,
    Model,
    Models,
    OneOf,
    Params,
    PolicyBatch,
    Sampling,
    Score,
    Trained,
    Trees,
)


@checked
@dataclass(frozen=True)
class PPOConfig:
    """Options of proximal policy optimisation."""

    data: ClassVar[Literal["prompts"]] = "prompts"
    summary: ClassVar[str] = (
        "proximal policy optimisation with a critic and a KL penalty in the reward"
    )
    learning_rate: ClassVar[float] = 1e-6
    """Default of `optimizer.learning_rate`: actors of verl and OpenRLHF use 1e-6, TRL 3e-6 for both
    models."""

    clip_low: float = 0.2
    """How far below 1 the importance ratio counts."""
    clip_high: float = 0.2
    """How far above."""
    dual_clip: float | None = None
    """Bound c > 1 on the ratio where the advantage is negative; None for none."""
    value_clip: float | None = 0.2
    """How far values may move in one batch, reward units; None for no clipping."""
    vf_coef: float = 0.1
    """Weight of the critic's loss."""
    entropy_coef: float = 0.0
    """Weight of the entropy that the loss rewards, 1/nats."""
    gamma: float = 1.0
    """Discount of rewards per token; 1: a reward at the end counts in full for every token."""
    gae_lambda: float = 0.95
    """How far a surprise is handed back: 1 trusts the sampled outcome, 0 the critic."""
    kl_coef: float = 0.05
    """Penalty per nat in the reward (the first one, when adaptive); 0 needs no reference model."""
    kl_target: float | None = None
    """KL the adaptive controller holds, nats per completion; None keeps kl_coef fixed."""
    kl_horizon: int = 10_000
    """Completions over which the controller acts."""
    missing_eos_penalty: float | None = None
    """Taken from the score of a completion cut by the length limit."""
    score_clip: float | None = None
    """Largest |score|, penalty included."""
    whiten_rewards: bool = False
    """Scale rewards to unit variance (their mean stays) before GAE."""
    whiten_advantages: bool = True
    """Advantages of a batch get mean 0 and variance 1."""
    critic: Literal["separate", "shared"] = "separate"
    """separate: a model of its own (parameters {"policy", "critic"}); shared: a value head on the
    policy's trunk."""
    critic_learning_rate: float | None = field(default=None, metadata={"rate_of": ("critic", 1e-5)})
    """Peak learning rate of a separate critic; null: optimizer.learning_rate where that is given,
    so that one number sets the pace of a small run; where neither is given 1e-5 (verl's), ten times
    the policy's 1e-6."""
    critic_warmup: int = 0
    """Optimizer steps in the beginning that train a separate critic alone."""
    temperature: float = 1.0
    """Sampling temperature; log-probabilities are computed at it."""
    aggregation: Literal["token", "sequence"] = "token"
    """How the loss is averaged: every token alike, or every completion alike."""
    group_size: int = 1
    """Completions per prompt."""
    num_epochs: int = 4
    """Passes over each batch of completions."""
    num_minibatches: int = 1
    """Optimizer steps per pass."""

    entropy_metric: bool = True
    """Report policy/entropy; false saves its share of the loss's work."""

    def __post_init__(self) -> None:
        for name in ("group_size", "num_epochs", "num_minibatches"):
            check_range(name, getattr(self, name), low=1)
        for name in ("clip_low", "clip_high", "kl_horizon", "temperature"):
            check_range(name, getattr(self, name), above=0)
        for name in ("value_clip", "kl_target", "score_clip", "critic_learning_rate"):
            check_range(name, getattr(self, name), above=0)
        check_range("critic_warmup", self.critic_warmup, low=0)
        for name in ("vf_coef", "entropy_coef", "kl_coef", "missing_eos_penalty"):
            check_range(name, getattr(self, name), low=0)
        for name in ("gamma", "gae_lambda"):
            check_range(name, getattr(self, name), low=0, high=1)
        check_range("dual_clip", self.dual_clip, above=1)
        check_choice("critic", self.critic, ("separate", "shared"))
        check_choice("aggregation", self.aggregation, ("token", "sequence"))
        for name in ("critic_warmup", "critic_learning_rate"):
            if self.critic == "shared" and getattr(self, name):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is for a critic of its own: set "
                    "critic=separate, or leave it out"
                )
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError(
                f"kl_target={self.kl_target!r} needs a coefficient to adapt: set kl_coef > 0, or "
                "kl_target to null"
            )

    @property
    def models(self) -> Models:
        """The policy, with a critic beside it or a value head on it; a reference with a penalty."""
        reference: Literal["none", "always"] = "none" if is_zero(self.kl_coef) else "always"
        if self.critic == "shared":
            return Models({"policy": Trained(head="value")}, reference)
        critic = Trained(head="reward", learning_rate=self.critic_learning_rate)
        return Models({"policy": Trained(hold=self.critic_warmup), "critic": critic}, reference)

    @property
    def sampling(self) -> Sampling:
        """One completion a prompt is enough: the critic is what it is compared with."""
        return Sampling(
            group_size=self.group_size,
            temperature=self.temperature,
            num_epochs=self.num_epochs,
            num_minibatches=self.num_minibatches,
        )


def ppo_loss(
    logps: Float[Array, "B T"],
    old_logps: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    weights: Float[Array, "B T"],
    values: Float[Array, "B T"],
    old_values: Float[Array, "B T"],
    returns: Float[Array, "B T"],
    *,
    entropy: Float[Array, "B T"] | None = None,
    clip_low: Scalar = 0.2,
    clip_high: Scalar = 0.2,
    dual_clip: Scalar | None = None,
    value_clip: Scalar | None = 0.2,
    vf_coef: Scalar = 0.1,
    entropy_coef: Scalar = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """Clipped policy loss, clipped value loss and entropy bonus.

        L = L_clip + vf_coef * L_value - entropy_coef * sum_t w_t H_t

    PPO eq. 9 (arXiv:1707.06347) with the sign of a loss; parts as in `ops.clipped_surrogate_loss`
    and `ops.clipped_value_loss`.

    Args:
      logps: log π of the sampled tokens, nats. Gradients flow.
      old_logps: the same before the update, nats.
      advantages: reward units.
      weights: non-negative, 0 on padding; sums to 1 over the optimizer step's batch.
      values: current critic, reward units. Gradients flow.
      old_values: critic before the update.
      returns: value targets.
      entropy: nats. Gradients flow when entropy_coef is not 0; None: no bonus and no metric.
      clip_low: eps_low.
      clip_high: eps_high.
      dual_clip: c > 1 or None.
      value_clip: reward units, or None for none.
      vf_coef: weight of the value loss.
      entropy_coef: weight of the entropy bonus.

    Returns:
      (loss, metrics); metrics: loss/total, loss/policy, loss/value, loss/weight, policy/entropy
      (with entropy), value/clip_fraction and those of `ops.clipped_surrogate_loss`.

    Raises:
      ValueError: entropy_coef is set but entropy is missing.
    """
    policy_loss, metrics = clipped_surrogate_loss(
        logps,
        old_logps,
        advantages,
        weights,
        clip_low=clip_low,
        clip_high=clip_high,
        dual_clip=dual_clip,
    )
    value_loss, value_metrics = clipped_value_loss(
        values, old_values, returns, weights, clip=value_clip
    )
    loss = policy_loss + vf_coef * value_loss
    bonus, spread = entropy_bonus(entropy, weights, entropy_coef)
    loss = loss if bonus is None else loss - bonus
    return loss, metrics | value_metrics | spread | {
        "loss/total": loss,
        "loss/policy": policy_loss,
        "loss/value": value_loss,
        "loss/weight": jnp.sum(weights),
    }


def make(config: PPOConfig, model: Model) -> Algorithm:
    """Proximal policy optimisation as pure functions.

    Args:
      config: options.
      model: policy, with a scalar head where it shares its trunk with the critic; functions of a
        critic of its own are `model.role("critic")`.

    Returns:
      The algorithm; it reads the trees "policy", "critic" (or the policy's scalar head) and, with a
      KL penalty, "ref". aux is {"kl_coef"} with kl_target, else empty.

    Raises:
      ValueError: there is no scalar head.
    """
    has_entropy = config.entropy_metric or not is_zero(config.entropy_coef)
    has_reference = config.models.reference == "always"
    role = "critic" if "critic" in config.models.trained else "policy"
    read = logps_and_values(model, role, config.temperature)
    needs = _before_update(config, model, role)
    if has_reference:
        needs["ref_logps"] = ref_logps(model, config.temperature)

    def loss(trees: Trees, batch: PolicyBatch, key: Key) -> tuple[Float[Array, ""], Metrics]:
        old_values, advantages = require(batch, "values", "advantages")
        returns, weights = require(batch, "returns", "weights")
        found = read(trees, batch, entropy=has_entropy)
        old = behaviour_logps(batch, found.logps)
        total, metrics = ppo_loss(
            found.logps,
            old,
            advantages,
            weights,
            found.values,
            old_values,
            returns,
            entropy=found.entropy,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            dual_clip=config.dual_clip,
            value_clip=config.value_clip,
            vf_coef=config.vf_coef,
            entropy_coef=config.entropy_coef,
        )
        return total, metrics | sampler_metrics(batch, old, weights)

    def prepare(batch: PolicyBatch, aux: Params) -> tuple[PolicyBatch, Params, Metrics]:
        require(batch, *needs)
        state_values = require(batch, "values")[0]
        kl_coef = config.kl_coef if config.kl_target is None else aux["kl_coef"]
        kl = jnp.zeros_like(state_values)
        if has_reference:
            # Of one update, only this reads them: the sampler's say the same to rounding, and cost
            # no pass.
            field = "sampler_logps" if batch.old_logps is None else "old_logps"
            before, reference = require(batch, field, "ref_logps")
            seen = batch.completion_mask
            kl = kl_estimate(masked(before, seen), masked(reference, seen), "k1")
        rewards = shaped_rewards(config, batch, kl, kl_coef)
        trained = gradable_tokens(batch)
        advantages, returns = gae(
            rewards, state_values, trained, gamma=config.gamma, gae_lambda=config.gae_lambda
        )
        metrics = rollout_metrics(batch) | {
            "value/explained_variance": _explained_variance(state_values, returns, trained)
        }
        if config.whiten_advantages:
            advantages = masked_whiten(advantages, trained)
        if has_reference:
            sampled = jnp.any(batch.completion_mask, axis=1)
            sequence_kl = masked_mean(jnp.sum(kl, axis=1), sampled)
            metrics |= {
                "kl/ref": masked_mean(kl, batch.completion_mask),
                "kl/ref_sequence": sequence_kl,
            }
            metrics["kl/coef"] = jnp.asarray(kl_coef, kl.dtype)
        if config.kl_target is not None:
            steps = jnp.sum(sampled).astype(kl.dtype)
            coef = adaptive_kl_coef(
                kl_coef, sequence_kl, steps, target=config.kl_target, horizon=config.kl_horizon
            )
            # one bad batch must not spoil it for good
            aux = {**aux, "kl_coef": jnp.where(jnp.isfinite(coef), coef, kl_coef)}
        return batch._replace(advantages=advantages, returns=returns), aux, metrics

    def weigh(batch: PolicyBatch) -> PolicyBatch:
        return batch._replace(weights=loss_weights(gradable_tokens(batch), config.aggregation))

    aux = {} if config.kl_target is None else {"kl_coef": jnp.asarray(config.kl_coef, jnp.float32)}
    return Algorithm(
        loss=loss, prepare=prepare, weigh=weigh, needs=needs, aux=aux, sampling=config.sampling
    )


def _before_update(config: PPOConfig, model: Model, role: str) -> dict[str, Score]:
    """What is scored of policy and critic before they change.

    Log-probabilities only where there are several updates: those after the first divide by them;
    the first divides by its own (`forward.behaviour_logps`). `role`: whose scalar head.
    """
    needs: dict[str, Score] = {"values": values(model, role)}
    if config.sampling.num_updates == 1:
        return needs
    if role != "policy":
        return {"old_logps": old_logps(model, config.temperature)} | needs
    read = logps_and_values(model, role, config.temperature)

    def both(trees: Trees, batch: PolicyBatch) -> dict[str, Array]:
        found = read(trees, batch, entropy=False)
        return {"old_logps": before_update(batch, found.logps), "values": found.values}

    return {field: OneOf(both, field) for field in ("old_logps", "values")}


def shaped_rewards(
    config: PPOConfig, batch: PolicyBatch, kl: Float[Array, "B T"], kl_coef: Scalar
) -> Float[Array, "B T"]:
    """Per-token rewards of a rollout: score, penalty for a missing EOS, KL penalty, whitening.

    Args:
      config: options.
      batch: rollout.
      kl: k1 estimate of the sampling policy against the reference, nats.
      kl_coef: coefficient now, reward units per nat.

    Returns:
      Rewards, 0 off the completion and on rows that could not be graded.
    """
    (scores,) = promote(batch.rewards)
    if config.missing_eos_penalty is not None:
        scores = scores - config.missing_eos_penalty * batch.truncated.astype(scores.dtype)
    trained = gradable_tokens(batch)
    rewards = kl_shaped_rewards(scores, kl, trained, kl_coef=kl_coef, score_clip=config.score_clip)
    return masked_whiten(rewards, trained, shift_mean=False) if config.whiten_rewards else rewards


def _explained_variance(values: Array, returns: Array, mask: Array) -> Float[Array, ""]:
    """1 - var(returns - values) / var(returns); 0 when the returns do not vary."""
    values, returns = (masked(x, mask) for x in promote(values, returns))

    def variance(x: Array) -> Array:
        return masked_mean((x - masked_mean(x, mask)) ** 2, mask)

    total = variance(returns)
    return jnp.where(total > 0, 1 - variance(returns - values) / jnp.where(total > 0, total, 1), 0)
