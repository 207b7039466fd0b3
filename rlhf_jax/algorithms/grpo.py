"""Group relative policy optimisation: PPO's clipped loss with the group's own rewards for a
baseline, no critic.

    A_i = (r_i - mean(group)) / (std(group) + 1e-4);   L = L_clip + kl_coef * sum_t w_t k3_t

What gets credit: a completion is compared with the others of its own prompt, so that an easy prompt
teaches no more than a hard one, and no critic is needed. All of its tokens share that one number,
because a reward at the end says nothing about which of them earned it. A group whose rewards are
all equal has advantage 0 and teaches nothing.

GRPO eq. 3 and 4 (Shao et al. 2024, arXiv:2402.03300). Its relatives are options:

* Dr. GRPO (arXiv:2503.20783): normalize_std=false, aggregation=constant;
* GSPO (arXiv:2507.18071): level=sequence;
* CISPO (arXiv:2506.13585): surrogate=cispo;
* RLOO (arXiv:2402.14740): baseline=leave_one_out, normalize_std=false.

Differences: no KL by default, so no reference model (the paper has 0.04, TRL 0); k1 is refused as a
loss (its expected gradient is 0 on-policy; Tunix has it as default); rows without a trained token
are left out of the sequence mean (TRL counts them as 0); completions that could not be graded (NaN)
are outside the group's statistics and carry no weight.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.algorithms.checks import (
    gradable_tokens,
    grouped,
    on_tokens,
    require,
    sampler_correction,
)
from rlhf_jax.algorithms.forward import behaviour_logps, old_logps, ref_logps, token_logps
from rlhf_jax.algorithms.metrics import (
    entropy_metric,
    group_metrics,
    rollout_metrics,
    sampler_metrics,
)
from rlhf_jax.checked import checked
from rlhf_jax.ops import (
    LEVELS,
    WEIGHT_MODES,
    cispo_loss,
    clipped_surrogate_loss,
    group_advantages,
    kl_estimate,
    leave_one_out_advantages,
    loss_weights,
    masked,
    weighted_sum,
)
from rlhf_jax.ops.checks import check_choice, check_range, is_zero
from rlhf_jax.ops.precision import Scalar
from rlhf_jax.types import (
    Algorithm,
    Key,
    Metrics,
    Model,
    Models,
    Params,
    PolicyBatch,
    Sampling,
    Score,
    Trees,
)

SURROGATES = ("clip", "cispo")
BASELINES = ("group_mean", "leave_one_out")


@checked
@dataclass(frozen=True)
class GRPOConfig:
    """Options of group relative policy optimisation and its relatives."""

    data: ClassVar[Literal["prompts"]] = "prompts"
    summary: ClassVar[str] = (
        "group relative policy optimisation (GRPO, Dr. GRPO, GSPO, CISPO, RLOO)"
    )
    learning_rate: ClassVar[float] = 1e-6
    """Default of `optimizer.learning_rate`: the paper, TRL, verl and OpenRLHF use 1e-6."""

    group_size: int = 8
    """Completions per prompt."""
    clip_low: float = 0.2
    """The ratio of a token may fall to 1 minus this before its gradient ends."""
    clip_high: float = 0.2
    """The ratio of a token may rise to 1 plus this before its gradient ends."""
    dual_clip: float | None = None
    """Bound c > 1 on the ratio where the advantage is negative; null for none."""
    kl_coef: float = 0.0
    """Weight of the KL loss (the paper's beta); 0 needs no reference model."""
    kl_kind: str = "k3"
    """Estimator of the KL loss: k3 | k2."""
    baseline: Literal["group_mean", "leave_one_out"] = "group_mean"
    """What a reward is compared with; leave_one_out is RLOO."""
    normalize_std: bool = True
    """Divide advantages by the group's standard deviation."""
    aggregation: Literal["token", "sequence", "constant"] = "sequence"
    """How the loss is averaged: every token alike; every completion alike (the paper's); or a
    constant number of tokens per completion (Dr. GRPO)."""
    aggregation_constant: int | None = None
    """Tokens per completion with aggregation=constant, usually the generation limit."""
    level: Literal["token", "sequence"] = "token"
    """Importance ratio per token, or per sequence (GSPO)."""
    surrogate: Literal["clip", "cispo"] = "clip"
    """Clipped ratio, or REINFORCE with a clipped weight (CISPO)."""
    max_ratio: float = 5.0
    """Largest importance weight of CISPO."""
    temperature: float = 1.0
    """Sampling temperature; log-probabilities are computed at it."""
    num_epochs: int = 1
    """Passes over each batch of completions."""
    num_minibatches: int = 1
    """Optimizer steps per pass; with more than one in all, log-probabilities before the update are
    scored and stored."""
    importance_cap: float | None = None
    """Largest importance weight between sampler and trainer (truncated importance sampling); null:
    no correction."""

    entropy_metric: bool = True
    """Report policy/entropy; false saves its share of the loss's work."""

    def __post_init__(self) -> None:
        for name in ("group_size", "num_epochs", "num_minibatches"):
            check_range(name, getattr(self, name), low=1)
        for name in (
            "clip_low",
            "clip_high",
            "temperature",
            "aggregation_constant",
            "importance_cap",
        ):
            check_range(name, getattr(self, name), above=0)
        check_range("dual_clip", self.dual_clip, above=1)
        check_range("kl_coef", self.kl_coef, low=0)
        check_range("max_ratio", self.max_ratio, low=1)
        _check_kl_kind(self.kl_kind)
        check_choice("baseline", self.baseline, BASELINES)
        check_choice("aggregation", self.aggregation, WEIGHT_MODES)
        check_choice("level", self.level, LEVELS)
        check_choice("surrogate", self.surrogate, SURROGATES)
        if (self.aggregation == "constant") != (self.aggregation_constant is not None):
            raise ValueError(
                f"aggregation={self.aggregation!r} with "
                f"aggregation_constant={self.aggregation_constant!r}:"
                " the constant and aggregation=constant go together"
            )
        if self.surrogate == "cispo" and (self.level == "sequence" or self.dual_clip is not None):
            raise ValueError(
                "surrogate='cispo' has a ratio per token and no clip to double: set level=token "
                "and dual_clip=null"
            )
        if self.baseline == "leave_one_out" and self.normalize_std:
            raise ValueError(
                "baseline='leave_one_out' is not divided by the standard deviation: set "
                "normalize_std=false"
            )

    @property
    def models(self) -> Models:
        """The policy; a reference with a KL loss."""
        return Models(reference="none" if is_zero(self.kl_coef) else "always")

    @property
    def sampling(self) -> Sampling:
        """Groups of two at least: their completions are compared."""
        return Sampling(
            group_size=self.group_size,
            temperature=self.temperature,
            num_epochs=self.num_epochs,
            num_minibatches=self.num_minibatches,
            least_group=2,
        )


def grpo_loss(
    logps: Float[Array, "B T"],
    old_logps: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    weights: Float[Array, "B T"],
    *,
    ref_logps: Float[Array, "B T"] | None = None,
    kl_coef: Scalar = 0.0,
    kl_kind: str = "k3",
    clip_low: Scalar = 0.2,
    clip_high: Scalar = 0.2,
    dual_clip: Scalar | None = None,
    level: str = "token",
    surrogate: str = "clip",
    max_ratio: Scalar = 5.0,
) -> tuple[Float[Array, ""], Metrics]:
    """Clipped policy loss plus a KL loss to the reference.

        L = L_clip + kl_coef * sum_t w_t KL_t

    GRPO eq. 3, with the KL estimator of eq. 4 (arXiv:2402.03300). The average is in `weights`:
    "sequence" is the paper's.

    Args:
      logps: log π of the sampled tokens, nats. Gradients flow through this argument only.
      old_logps: the same before the update, nats.
      advantages: the completion's advantage on each of its tokens.
      weights: non-negative, 0 on padding.
      ref_logps: the same tokens under the reference, nats; None: no KL.
      kl_coef: weight of the KL loss.
      kl_kind: "k3" or "k2".
      clip_low: eps_low.
      clip_high: eps_high.
      dual_clip: c > 1 or None.
      level: "token" or "sequence" (GSPO).
      surrogate: "clip", or "cispo" (then clip_low, clip_high, dual_clip and level have no effect).
      max_ratio: largest importance weight of CISPO.

    Returns:
      (loss, metrics); metrics: loss/total, loss/policy, loss/weight, kl/ref (with ref_logps) and
      those of the surrogate.

    Raises:
      ValueError: kl_kind "k1" or unknown; unknown level or surrogate; kl_coef is set but ref_logps
        is missing.
    """
    _check_kl_kind(kl_kind)
    check_choice("surrogate", surrogate, SURROGATES)
    if surrogate == "cispo":
        policy_loss, metrics = cispo_loss(
            logps, old_logps, advantages, weights, max_ratio=max_ratio
        )
    else:
        policy_loss, metrics = clipped_surrogate_loss(
            logps,
            old_logps,
            advantages,
            weights,
            clip_low=clip_low,
            clip_high=clip_high,
            dual_clip=dual_clip,
            level=level,
        )
    loss = policy_loss
    if ref_logps is not None:
        keep = weights != 0
        kl = weighted_sum(
            kl_estimate(masked(logps, keep), masked(ref_logps, keep), kl_kind), weights
        )
        metrics["kl/ref"] = kl
        loss = loss + kl_coef * kl
    elif not is_zero(kl_coef):
        raise ValueError(f"kl_coef={kl_coef!r} needs ref_logps: pass them, or set kl_coef=0")
    return loss, metrics | {
        "loss/total": loss,
        "loss/policy": policy_loss,
        "loss/weight": jnp.sum(weights),
    }


def make(config: GRPOConfig, model: Model) -> Algorithm:
    """Group relative policy optimisation as pure functions.

    Args:
      config: options.
      model: policy.

    Returns:
      The algorithm; it reads the tree "policy", and with a KL loss "ref". Rows come in groups of
      `config.group_size`.
    """
    needs: dict[str, Score] = {}
    if config.models.reference == "always":
        needs["ref_logps"] = ref_logps(model, config.temperature)
    if config.sampling.num_updates > 1:
        needs["old_logps"] = old_logps(model, config.temperature)

    def loss(trees: Trees, batch: PolicyBatch, key: Key) -> tuple[Float[Array, ""], Metrics]:
        advantages, weights = require(batch, "advantages", "weights")
        reference = require(batch, "ref_logps")[0] if "ref_logps" in needs else None
        logps, entropy = token_logps(
            model, trees, batch, temperature=config.temperature, entropy=config.entropy_metric
        )
        old = behaviour_logps(batch, logps)
        correction, capped = sampler_correction(batch, old, weights, cap=config.importance_cap)
        total, metrics = grpo_loss(
            logps,
            old,
            advantages * correction,
            weights,
            ref_logps=reference,
            kl_coef=config.kl_coef,
            kl_kind=config.kl_kind,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            dual_clip=config.dual_clip,
            level=config.level,
            surrogate=config.surrogate,
            max_ratio=config.max_ratio,
        )
        metrics |= capped | sampler_metrics(batch, old, weights)
        return total, metrics | entropy_metric(entropy, weights)

    def prepare(batch: PolicyBatch, aux: Params) -> tuple[PolicyBatch, Params, Metrics]:
        require(batch, *sorted(needs))
        rewards = grouped(batch.rewards, config.group_size)
        if config.baseline == "leave_one_out":
            advantages = leave_one_out_advantages(rewards)
        else:
            advantages = group_advantages(rewards, normalize_std=config.normalize_std)
        metrics = rollout_metrics(batch) | group_metrics(rewards)
        return batch._replace(advantages=on_tokens(advantages.reshape(-1), batch)), aux, metrics

    def weigh(batch: PolicyBatch) -> PolicyBatch:
        weights = loss_weights(
            gradable_tokens(batch), config.aggregation, constant=config.aggregation_constant
        )
        return batch._replace(weights=weights)

    return Algorithm(loss=loss, prepare=prepare, weigh=weigh, needs=needs, sampling=config.sampling)


def _check_kl_kind(kl_kind: str) -> None:
    """k1 is refused with the reason, anything unknown with the list."""
    if kl_kind == "k1":
        raise ValueError(
            "kl_kind='k1' as a loss has zero expected gradient on-policy and only adds noise:"
            " use 'k3' or 'k2' (k1 is right inside the reward, as in PPO)"
        )
    check_choice("kl_kind", kl_kind, ("k2", "k3"))
