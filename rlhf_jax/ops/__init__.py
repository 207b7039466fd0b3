"""Pure array maths: no model, configuration or key; differentiable, jit-able and vmap-able."""

from rlhf_jax.ops.advantages import gae, group_advantages, leave_one_out_advantages
from rlhf_jax.ops.fused import fused_token_logps
from rlhf_jax.ops.kl import KL_KINDS, adaptive_kl_coef, kl_estimate
from rlhf_jax.ops.logprobs import LOG_RATIO_LIMIT, log_ratio, token_entropy, token_logps
from rlhf_jax.ops.masking import masked, masked_mean, masked_whiten, predicted_mask, weighted_sum
from rlhf_jax.ops.shaping import kl_shaped_rewards, mixed_groups, overlong_filter, overlong_penalty
from rlhf_jax.ops.surrogate import (
    LEVELS,
    cispo_loss,
    clipped_surrogate_loss,
    clipped_value_loss,
    truncated_importance_weights,
)
from rlhf_jax.ops.weights import WEIGHT_MODES, loss_weights

__all__ = [
    "KL_KINDS",
    "LEVELS",
    "LOG_RATIO_LIMIT",
    "WEIGHT_MODES",
    "adaptive_kl_coef",
    "cispo_loss",
    "clipped_surrogate_loss",
    "clipped_value_loss",
    "fused_token_logps",
    "gae",
    "group_advantages",
    "kl_estimate",
    "kl_shaped_rewards",
    "leave_one_out_advantages",
    "log_ratio",
    "loss_weights",
    "masked",
    "masked_mean",
    "masked_whiten",
    "mixed_groups",
    "overlong_filter",
    "overlong_penalty",
    "predicted_mask",
    "token_entropy",
    "token_logps",
    "truncated_importance_weights",
    "weighted_sum",
]
