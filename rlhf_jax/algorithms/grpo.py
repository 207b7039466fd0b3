"""Group relative policy optimisation: PPO's clipped loss with the group's own rewards for a
baseline, no critic.

    A_i = (r_i - mean(group)) / (std(group) + 1e-4);   L = L_clip + kl_coef * sum_t w_t k3_t

What gets credit: a completion is compared with the others of its own prompt, so that an easy prompt
teaches no more than a hard one, and no critic is needed. All of its tokens share that one number,
because a reward at the end says nothing about which of them earned it. A group whose rewards are
all equal has advantage 0 and teaches nothing.

GRPO eq. 3 and 4 (Shao et al. 2024, arXiv:2402.03300). Its relatives are options, and `preset` sets
them by name (`presets.GRPO_PRESETS`): Dr. GRPO, GSPO, RLOO, CISPO, Lite PPO, the token mean of
DAPO.

Differences: no KL by default, so no reference model (the paper has 0.04, TRL 0); k1 is refused as a
loss (its expected gradient is 0 on-policy; Tunix has it as default); rows without a trained token
are left out of the sequence mean (TRL counts them as 0); completions that could not be graded (NaN)
are outside the group's statistics and carry no weight. `entropy_coef` weighs an entropy that is
averaged like the loss (TRL: over tokens, whatever the loss).
"""

import functools
from dataclasses import dataclass, field
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
from rlhf_jax.algorithms.kl_loss import check_kl_loss, kl_loss
from rlhf_jax.algorithms.metrics import (
    entropy_bonus,
    group_metrics,
    rollout_metrics,
    sampler_metrics,
)
from rlhf_jax.algorithms.named import Advantages, own_advantages
from rlhf_jax.algorithms.presets import GRPO_PRESETS, Preset, with_presets
from rlhf_jax.checked import checked
from rlhf_jax.ops import (
    LEVELS,
    WEIGHT_MODES,
    cispo_loss,
    clipped_surrogate_loss,
    group_advantages,
    leave_one_out_advantages,
    loss_weights,
    overlong_filter,
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
BASELINE = ("group_mean", True)
"""Defaults of `baseline` and `normalize_std`."""


@checked
@with_presets
@dataclass(frozen=True)
class GRPOConfig:
    """Options of group relative policy optimisation and its relatives."""

    data: ClassVar[Literal["prompts"]] = "prompts"
    summary: ClassVar[str] = (
        "group relative policy optimisation (GRPO, Dr. GRPO, GSPO, CISPO, RLOO)"
    )
    presets: ClassVar[dict[str, Preset]] = GRPO_PRESETS
    learning_rate: ClassVar[float] = 1e-6
    """Default of `optimizer.learning_rate`: the paper, TRL, verl and OpenRLHF use 1e-6."""

    preset: str | None = None
    """dr_grpo | gspo | rloo | cispo | dapo_loss | lite_ppo: defaults of a relative, which keys that
    are given overrule (``rlhf-jax algorithms grpo`` lists what each sets); null: GRPO."""
    group_size: int = 8
    """Completions per prompt."""
    clip_low: float = 0.2
    """How far below 1 the importance ratio counts."""
    clip_high: float | None = None
    """How far above; null: clip_low."""
    dual_clip: float | None = None
    """Bound c > 1 on the ratio where the advantage is negative; null: none."""
    kl_coef: float = 0.0
    """Weight of the KL loss (the paper's beta); 0 needs no reference model."""
    kl_kind: str = "k3"
    """Estimator of the KL loss: k3 | k2."""
    kl_unbiased: bool = False
    """Weigh the KL loss of each token by its importance ratio: its expected gradient is then that
    of KL(policy || reference) (DeepSeek-V3.2; the default of TRL); false: the paper's."""
    baseline: Literal["group_mean", "leave_one_out"] = "group_mean"
    """What a reward is compared with; leave_one_out is RLOO."""
    normalize_std: bool | Literal["batch"] = True
    """Divide advantages by the standard deviation of their group; batch: by that of all rewards of
    the batch; false: by nothing."""
    advantages: str | None = field(
        default=None, metadata={"tried": lambda config: _advantages(config)}
    )
    """FILE.py:FUNCTION of your own in place of baseline and normalize_std: rewards [prompts, group]
    (NaN: could not be graded) -> advantages of the same shape, in jax.numpy; null: none."""
    aggregation: Literal["token", "sequence", "constant"] = "sequence"
    """How the loss is averaged: every token alike; every completion alike (the paper's); or a
    constant number of tokens per completion (Dr. GRPO)."""
    aggregation_constant: int | None = None
    """Tokens per completion with aggregation=constant; null: max_new_tokens."""
    max_new_tokens: int | None = field(
        default=None, metadata={"inherits": "rollout.max_new_tokens"}
    )
    """Generation limit, the constant of aggregation=constant; null: rollout.max_new_tokens."""
    mask_truncated: bool = False
    """Leave completions cut by the generation limit out of the loss; their rewards stay in the
    statistics of their group."""
    entropy_coef: float = 0.0
    """Weight of the entropy that the loss rewards, 1/nats."""
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
            "max_new_tokens",
            "importance_cap",
        ):
            check_range(name, getattr(self, name), above=0)
        check_range("dual_clip", self.dual_clip, above=1)
        check_range("kl_coef", self.kl_coef, low=0)
        check_range("entropy_coef", self.entropy_coef, low=0)
        check_range("max_ratio", self.max_ratio, low=1)
        if self.preset is not None:
            check_choice("preset", self.preset, tuple(GRPO_PRESETS))
        if self.clip_high is None:
            object.__setattr__(self, "clip_high", self.clip_low)
        check_kl_loss(self.kl_kind, unbiased=self.kl_unbiased)
        if self.kl_unbiased and is_zero(self.kl_coef):
            raise ValueError(
                "kl_unbiased=True weighs a KL loss, and kl_coef=0 has none: set kl_coef, or leave "
                "it out"
            )
        if self.normalize_std not in (True, False):
            check_choice("normalize_std", self.normalize_std, ("true", "false", "batch"))
        check_choice("baseline", self.baseline, BASELINES)
        check_choice("aggregation", self.aggregation, WEIGHT_MODES)
        check_choice("level", self.level, LEVELS)
        check_choice("surrogate", self.surrogate, SURROGATES)
        if self.aggregation != "constant" and self.aggregation_constant is not None:
            raise ValueError(
                f"aggregation_constant={self.aggregation_constant!r} has no meaning for "
                f"aggregation={self.aggregation!r}: set aggregation=constant, or leave it out"
            )
        if self.surrogate == "cispo" and (self.level == "sequence" or self.dual_clip is not None):
            raise ValueError(
                "surrogate='cispo' has a ratio per token and no clip to double: set level=token "
                "and dual_clip=null"
            )
        if self.advantages is not None and (self.baseline, self.normalize_std) != BASELINE:
            raise ValueError(
                f"advantages={self.advantages!r} stands in place of baseline={self.baseline!r} and "
                f"normalize_std={self.normalize_std!r}: leave those out"
            )
        if self.baseline == "leave_one_out" and self.normalize_std:
            raise ValueError(
                "baseline='leave_one_out' is not divided by the standard deviation: set "
                "normalize_std=false"
            )

    @property
    def upper_clip(self) -> Scalar:
        """`clip_high`, its default worked out."""
        return self.clip_low if self.clip_high is None else self.clip_high

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
    kl_unbiased: bool = False,
    clip_low: Scalar = 0.2,
    clip_high: Scalar = 0.2,
    dual_clip: Scalar | None = None,
    level: str = "token",
    surrogate: str = "clip",
    max_ratio: Scalar = 5.0,
    entropy: Float[Array, "B T"] | None = None,
    entropy_coef: Scalar = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """Clipped policy loss plus a KL loss to the reference, minus an entropy bonus.

        L = L_clip + kl_coef * sum_t w_t KL_t - entropy_coef * sum_t w_t H_t

    GRPO eq. 3, with the KL estimator of eq. 4 (arXiv:2402.03300). The average is in `weights`:
    "sequence" is the paper's.

    Args:
      logps: log π of the sampled tokens, nats. Gradients flow.
      old_logps: the same before the update, nats.
      advantages: the completion's advantage on each of its tokens.
      weights: non-negative, 0 on padding.
      ref_logps: the same tokens under the reference, nats; None: no KL.
      kl_coef: weight of the KL loss.
      kl_kind: "k3" or "k2".
      kl_unbiased: weigh KL_t by the importance ratio of its token (`kl_loss`).
      clip_low: eps_low.
      clip_high: eps_high.
      dual_clip: c > 1 or None.
      level: "token" or "sequence" (GSPO).
      surrogate: "clip", or "cispo" (then clip_low, clip_high, dual_clip and level have no effect).
      max_ratio: largest importance weight of CISPO.
      entropy: nats. Gradients flow when entropy_coef is not 0; None: no bonus and no metric.
      entropy_coef: weight of the entropy bonus.

    Returns:
      (loss, metrics); metrics: loss/total, loss/policy, loss/weight, kl/ref (with ref_logps),
      policy/entropy (with entropy) and those of the surrogate.

    Raises:
      ValueError: kl_kind "k1" or unknown, or not "k3" with kl_unbiased; unknown level or surrogate;
        kl_coef is set but ref_logps is missing; entropy_coef is set but entropy is missing.
    """
    check_kl_loss(kl_kind, unbiased=kl_unbiased)
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
        kl = kl_loss(logps, old_logps, ref_logps, weights, kind=kl_kind, unbiased=kl_unbiased)
        metrics["kl/ref"] = kl
        loss = loss + kl_coef * kl
    elif not is_zero(kl_coef):
        raise ValueError(f"kl_coef={kl_coef!r} needs ref_logps: pass them, or set kl_coef=0")
    bonus, spread = entropy_bonus(entropy, weights, entropy_coef)
    loss = loss if bonus is None else loss - bonus
    return loss, metrics | spread | {
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

    Raises:
      ValueError: aggregation=constant, and no limit to divide by.
    """
    constant = None
    if config.aggregation == "constant":
        constant = config.aggregation_constant or config.max_new_tokens
        if constant is None:
            raise ValueError(
                "max_new_tokens is None: give the generation limit, or aggregation_constant, which "
                "aggregation=constant divides by"
            )
    has_entropy = config.entropy_metric or not is_zero(config.entropy_coef)
    needs: dict[str, Score] = {}
    if config.models.reference == "always":
        needs["ref_logps"] = ref_logps(model, config.temperature)
    if config.sampling.num_updates > 1:
        needs["old_logps"] = old_logps(model, config.temperature)
    compared = _advantages(config)

    def loss(trees: Trees, batch: PolicyBatch, key: Key) -> tuple[Float[Array, ""], Metrics]:
        advantages, weights = require(batch, "advantages", "weights")
        reference = require(batch, "ref_logps")[0] if "ref_logps" in needs else None
        logps, entropy = token_logps(
            model, trees, batch, temperature=config.temperature, entropy=has_entropy
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
            kl_unbiased=config.kl_unbiased,
            clip_low=config.clip_low,
            clip_high=config.upper_clip,
            dual_clip=config.dual_clip,
            level=config.level,
            surrogate=config.surrogate,
            max_ratio=config.max_ratio,
            entropy=entropy,
            entropy_coef=config.entropy_coef,
        )
        return total, metrics | capped | sampler_metrics(batch, old, weights)

    def prepare(batch: PolicyBatch, aux: Params) -> tuple[PolicyBatch, Params, Metrics]:
        require(batch, *sorted(needs))
        rewards = grouped(batch.rewards, config.group_size)
        advantages = on_tokens(compared(rewards).reshape(-1), batch)
        metrics = rollout_metrics(batch) | group_metrics(rewards)
        return batch._replace(advantages=advantages), aux, metrics

    def weigh(batch: PolicyBatch) -> PolicyBatch:
        trained = gradable_tokens(batch)
        if config.mask_truncated:
            trained = overlong_filter(trained, batch.truncated)
        weights = loss_weights(trained, config.aggregation, constant=constant)
        return batch._replace(weights=weights)

    return Algorithm(loss=loss, prepare=prepare, weigh=weigh, needs=needs, sampling=config.sampling)


def _advantages(config: GRPOConfig) -> Advantages:
    """What a group's rewards are compared with."""
    if config.advantages is not None:
        return own_advantages(config.advantages, config.group_size)
    if config.baseline == "leave_one_out":
        return leave_one_out_advantages
    return functools.partial(group_advantages, normalize_std=config.normalize_std)
