"""DAPO: decoupled clip and dynamic sampling policy optimisation.

What gets credit: as in GRPO a completion is compared with the others of its prompt, but only where
some are right and some are wrong, because a group of equals has nothing to tell. Every token of the
batch counts alike, so a long completion has more say than a short one. A completion that runs into
the length limit loses reward for its last stretch, whatever it says there.

GRPO without KL and five changes (Yu et al. 2025, arXiv:2503.14476):

1. clip-higher: eps_low 0.2, eps_high 0.28 (eq. 10), so that unlikely tokens can grow;
2. dynamic sampling: only groups with 0 < correct < G are trained on (eq. 11; `ops.mixed_groups`,
   refilled by the online loop);
3. token-level loss: the average runs over all tokens of the batch (eq. 12);
4. soft overlong punishment in the last `overlong_buffer_len` tokens before the limit (eq. 13);
5. overlong filtering: cut completions leave the loss (section 3.4; off by default, the paper's best
   run uses the punishment).

Differences: a dual clip at 10 (verl's recipe; the paper has none); the average is over the
optimizer step's global batch; no reference model is needed or kept; completions that could not be
graded (NaN) are outside the group's statistics and carry no weight.
"""

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
from rlhf_jax.algorithms.forward import behaviour_logps, old_logps, token_logps
from rlhf_jax.algorithms.metrics import (
    entropy_bonus,
    group_metrics,
    rollout_metrics,
    sampler_metrics,
)
from rlhf_jax.checked import checked
from rlhf_jax.ops import (
    clipped_surrogate_loss,
    group_advantages,
    loss_weights,
    masked_mean,
    mixed_groups,
    overlong_filter,
    overlong_penalty,
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
    Trees,
)


@checked
@dataclass(frozen=True)
class DAPOConfig:
    """Options of decoupled clip and dynamic sampling policy optimisation."""

    data: ClassVar[Literal["prompts"]] = "prompts"
    models: ClassVar[Models] = Models()
    summary: ClassVar[str] = (
        "decoupled clip and dynamic sampling policy optimisation, no critic, no reference"
    )
    learning_rate: ClassVar[float] = 1e-6
    """Default of `optimizer.learning_rate`: the paper (section 4.1) and verl's recipe use 1e-6."""

    group_size: int = 16
    """Completions per prompt."""
    clip_low: float = 0.2
    """How far below 1 the importance ratio counts."""
    clip_high: float = 0.28
    """How far above."""
    dual_clip: float | None = 10.0
    """Bound c > 1 on the ratio where the advantage is negative; null: none, as in the paper."""
    max_new_tokens: int | None = field(
        default=None, metadata={"inherits": "rollout.max_new_tokens"}
    )
    """Generation limit that the punishment refers to, tokens (L_max); null:
    rollout.max_new_tokens."""
    overlong_buffer_len: int | None = None
    """Tokens before the limit in which the punishment grows (L_cache); null: a fifth of the limit,
    as in the paper; 0: no punishment."""
    overlong_factor: float = 1.0
    """Largest punishment, reward units."""
    overlong_filtering: bool = False
    """Leave completions cut by the limit out of the loss (GRPO's mask_truncated)."""
    entropy_coef: float = 0.0
    """Weight of the entropy that the loss rewards, 1/nats; the paper has none."""
    aggregation: Literal["token", "sequence"] = "token"
    """How the loss is averaged: every token alike (the paper's), or every completion alike (as
    GRPO, for ablations)."""
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
    dynamic_sampling: bool = field(default=True, metadata={"resumable": True})
    """Train only on groups with a right and a wrong answer (where a reward model judges: with
    rewards that differ), and generate until the batch is full of them."""
    accuracy_reward: str | list[str] | tuple[str, ...] | None = None
    """Name of the reward that says right (> 0) or wrong, before any penalty; or several, each the
    verifier of a task: a completion is judged by the first of them that grades it. null: the first
    of `rewards` (built-in ones for form, such as `format` and `length`, come last) and, of the
    others, each that grades nothing but what those before it leave ungraded. A reward model's score
    has no border between right and wrong: where one stands here, the groups whose rewards differ
    are trained on."""
    max_generation_batches: int = field(default=10, metadata={"resumable": True})
    """Generation batches for one update at most."""
    on_cap: Literal["train_partial", "raise", "skip"] = field(
        default="train_partial", metadata={"resumable": True}
    )
    """What happens at that cap: train on the groups there are (none at all is an error); stop with
    an error; or skip the update of this step, count it, and carry the groups over. Where everything
    that was generated is right, the task is solved and the run ends as after its last step (not
    with skip, which goes on looking)."""
    retire_pass_rate: float | None = None
    """Prompts whose share of right answers reaches this are not asked again; null: all are. Needs a
    reward that says right or wrong, which a reward model does not."""

    entropy_metric: bool = True
    """Report policy/entropy; false saves its share of the loss's work."""

    def __post_init__(self) -> None:
        if isinstance(self.accuracy_reward, list):  # a configuration is hashable
            object.__setattr__(self, "accuracy_reward", tuple(self.accuracy_reward))
        for name in (
            "group_size",
            "max_new_tokens",
            "num_epochs",
            "num_minibatches",
            "max_generation_batches",
        ):
            check_range(name, getattr(self, name), low=1)
        for name in ("clip_low", "clip_high", "temperature", "importance_cap"):
            check_range(name, getattr(self, name), above=0)
        check_range("dual_clip", self.dual_clip, above=1)
        check_range(
            "overlong_buffer_len", self.overlong_buffer_len, low=0, high=self.max_new_tokens
        )
        check_range("overlong_factor", self.overlong_factor, low=0)
        check_range("entropy_coef", self.entropy_coef, low=0)
        check_range("retire_pass_rate", self.retire_pass_rate, above=0, high=1)
        check_choice("aggregation", self.aggregation, ("token", "sequence"))
        check_choice("on_cap", self.on_cap, ("train_partial", "raise", "skip"))

    @property
    def sampling(self) -> Sampling:
        """Groups of two at least; with dynamic sampling only those with a right and a wrong answer,
        generated until there are enough or the cap is reached."""
        named = self.accuracy_reward
        sampling = Sampling(
            group_size=self.group_size,
            temperature=self.temperature,
            num_epochs=self.num_epochs,
            num_minibatches=self.num_minibatches,
            least_group=2,
            accuracy_reward=tuple(named) if isinstance(named, list) else named,
            retire_pass_rate=self.retire_pass_rate,
        )
        if not self.dynamic_sampling:
            return sampling
        return sampling._replace(
            keep=mixed_groups,
            max_generation_batches=self.max_generation_batches,
            on_cap=self.on_cap,
        )


def dapo_loss(
    logps: Float[Array, "B T"],
    old_logps: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    weights: Float[Array, "B T"],
    *,
    clip_low: Scalar = 0.2,
    clip_high: Scalar = 0.28,
    dual_clip: Scalar | None = 10.0,
    entropy: Float[Array, "B T"] | None = None,
    entropy_coef: Scalar = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """Clipped policy loss with a wider upper clip.

        L = - sum_t w_t min(r_t A_t, clip(r_t, 1 - eps_low, 1 + eps_high) A_t)
        w_t = 1 / tokens of the batch

    DAPO eq. 8 (arXiv:2503.14476); the dual clip is Ye et al. 2020 (arXiv:1912.09729).

    Args:
      logps: log π of the sampled tokens, nats. Gradients flow.
      old_logps: the same before the update, nats.
      advantages: the completion's advantage on each of its tokens.
      weights: mode "token" of `ops.loss_weights`, 0 on padding.
      clip_low: eps_low.
      clip_high: eps_high.
      dual_clip: c > 1, or None for the paper's form.
      entropy: nats. Gradients flow when entropy_coef is not 0; None: no bonus and no metric.
      entropy_coef: weight of an entropy bonus, which the paper does not have.

    Returns:
      (loss, metrics); metrics: loss/total, loss/policy, loss/weight, policy/entropy (with entropy)
      and those of `ops.clipped_surrogate_loss`.

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
    bonus, spread = entropy_bonus(entropy, weights, entropy_coef)
    loss = policy_loss if bonus is None else policy_loss - bonus
    return loss, metrics | spread | {
        "loss/total": loss,
        "loss/policy": policy_loss,
        "loss/weight": jnp.sum(weights),
    }


def make(config: DAPOConfig, model: Model) -> Algorithm:
    """DAPO as pure functions.

    Args:
      config: options.
      model: policy.

    Returns:
      The algorithm; it reads the tree "policy". Rows come in groups of `config.group_size`.
    """
    buffer_len = punished_tokens(config)
    several = config.sampling.num_updates > 1
    has_entropy = config.entropy_metric or not is_zero(config.entropy_coef)
    needs = {"old_logps": old_logps(model, config.temperature)} if several else {}

    def loss(trees: Trees, batch: PolicyBatch, key: Key) -> tuple[Float[Array, ""], Metrics]:
        advantages, weights = require(batch, "advantages", "weights")
        logps, entropy = token_logps(
            model, trees, batch, temperature=config.temperature, entropy=has_entropy
        )
        old = behaviour_logps(batch, logps)
        correction, capped = sampler_correction(batch, old, weights, cap=config.importance_cap)
        total, metrics = dapo_loss(
            logps,
            old,
            advantages * correction,
            weights,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            dual_clip=config.dual_clip,
            entropy=entropy,
            entropy_coef=config.entropy_coef,
        )
        return total, metrics | capped | sampler_metrics(batch, old, weights)

    def prepare(batch: PolicyBatch, aux: Params) -> tuple[PolicyBatch, Params, Metrics]:
        require(batch, *sorted(needs))
        rewards = batch.rewards
        metrics = rollout_metrics(batch)
        if buffer_len and config.max_new_tokens is not None:
            penalty = overlong_penalty(
                jnp.sum(batch.completion_mask, axis=1),
                max_len=config.max_new_tokens,
                buffer_len=buffer_len,
                factor=config.overlong_factor,
            )
            rewards = rewards + penalty
            metrics["rewards/overlong_penalty"] = masked_mean(
                penalty, jnp.any(batch.completion_mask, axis=1)
            )
        groups = grouped(rewards, config.group_size)
        advantages = on_tokens(group_advantages(groups).reshape(-1), batch)
        return batch._replace(advantages=advantages), aux, metrics | group_metrics(groups)

    def weigh(batch: PolicyBatch) -> PolicyBatch:
        trained = gradable_tokens(batch)
        if config.overlong_filtering:
            trained = overlong_filter(trained, batch.truncated)
        return batch._replace(weights=loss_weights(trained, config.aggregation))

    return Algorithm(loss=loss, prepare=prepare, weigh=weigh, needs=needs, sampling=config.sampling)


def punished_tokens(config: DAPOConfig) -> int:
    """Tokens before the limit in which the punishment grows (`overlong_buffer_len`, its default
    worked out).

    Raises:
      ValueError: there is a punishment, and no limit to measure it from.
    """
    if config.overlong_buffer_len == 0:
        return 0
    if config.max_new_tokens is None:
        raise ValueError(
            "max_new_tokens is None: give the generation limit, or overlong_buffer_len=0 for no "
            "length punishment"
        )
    return config.overlong_buffer_len or max(1, config.max_new_tokens // 5)
