"""What an algorithm demands of a model and a batch: one-line errors for what is missing."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from rlhf_jax.ops import truncated_importance_weights
from rlhf_jax.types import Metrics, Model, PerTokenFn, PolicyBatch


def require(batch: Any, *fields: str) -> tuple[Array, ...]:
    """Fields of a batch that must have been filled before this point.

    Args:
      batch: any batch NamedTuple.
      fields: names that must not be None.

    Returns:
      Their arrays.

    Raises:
      ValueError: one line with the missing field and who fills it.
    """
    for field in fields:
        if getattr(batch, field) is None:
            mend = (
                "call Algorithm.weigh"
                if field == "weights"
                else "score what Algorithm.needs names, then call prepare"
            )
            raise ValueError(f"{type(batch).__name__}.{field} is missing: first {mend}")
    return tuple(getattr(batch, field) for field in fields)


def scalar_head(model: Model, head: str) -> PerTokenFn:
    """The model's scalar head.

    Args:
      model: any model.
      head: "reward" or "value", for the message.

    Returns:
      `model.scores`.

    Raises:
      ValueError: the model has none.
    """
    if model.scores is None:
        raise ValueError(
            f"model.scores is missing: load or initialise the model with head={head!r}"
        )
    return model.scores


def grouped(rewards: Float[Array, " B"], group_size: int) -> Float[Array, "P G"]:
    """Rewards with one group a row.

    Args:
      rewards: group-major, one a completion.
      group_size: G.

    Returns:
      The same numbers.

    Raises:
      ValueError: the completions do not make whole groups.
    """
    if rewards.shape[0] % group_size:
        raise ValueError(
            f"{rewards.shape[0]} completions do not divide into groups: group_size={group_size} "
            "must divide them"
        )
    return rewards.reshape(-1, group_size)


def behaviour_logps(batch: PolicyBatch, logps: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """Log-probabilities of the policy that sampled: what the importance ratio divides by.

    Rows that `batch.on_policy` marks were sampled by the parameters being differentiated, so the
    current log-probabilities, without gradient, are theirs: the ratio is exactly 1 and no forward
    pass is spent on it. Other rows read `old_logps`, or where nothing was scored what the sampler
    reported.

    Args:
      batch: rollout.
      logps: of the current policy, nats.

    Returns:
      [B, T], nats; no gradient.

    Raises:
      ValueError: neither `on_policy` nor `old_logps` is there, or rows off the policy have no
        log-probabilities at all.
    """
    if batch.on_policy is None:
        return lax.stop_gradient(require(batch, "old_logps")[0])
    old = batch.old_logps if batch.old_logps is not None else require(batch, "sampler_logps")[0]
    return lax.stop_gradient(jnp.where(batch.on_policy[:, None], logps, old.astype(logps.dtype)))


def sampler_correction(
    batch: PolicyBatch,
    old_logps: Float[Array, "B T"],
    weights: Float[Array, "B T"],
    *,
    cap: float | None,
) -> tuple[Float[Array, "B T"] | Float[Array, ""], Metrics]:
    """Truncated importance weights between sampler and trainer
    (`ops.truncated_importance_weights`); 1 without a cap.

    Args:
      batch: rollout with the sampler's log-probabilities.
      old_logps: of the policy that sampled, by the trainer, nats.
      weights: of the loss.
      cap: largest weight, or None.

    Returns:
      (factor of the advantages, metrics).
    """
    if cap is None:
        return jnp.ones((), old_logps.dtype), {}
    return truncated_importance_weights(
        old_logps, require(batch, "sampler_logps")[0], weights, cap=cap
    )
