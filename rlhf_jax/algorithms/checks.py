"""What an algorithm demands of a model and a batch: one-line errors for what is missing."""

from typing import Any, TypeVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.ops import masked, truncated_importance_weights
from rlhf_jax.ops.precision import default_float
from rlhf_jax.types import Metrics, Model, PairBatch, PerTokenFn, PolicyBatch, UnpairedBatch

PairsT = TypeVar("PairsT", PairBatch, UnpairedBatch)


def require(batch: Any, *fields: str) -> tuple[Any, ...]:
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


def on_tokens(per_row: Float[Array, " B"], batch: PolicyBatch) -> Float[Array, "B T"]:
    """A number of each completion on each of its tokens, 0 elsewhere."""
    spread = jnp.broadcast_to(per_row[:, None], batch.completion_mask.shape)
    return masked(spread, batch.completion_mask)


def weigh_pairs(batch: PairsT) -> PairsT:
    """Every real pair (or single answer) alike: `Algorithm.weigh` of what is learnt from pairs."""
    valid = batch.valid.astype(default_float())
    return batch._replace(weights=valid / jnp.maximum(jnp.sum(valid), 1))


def gradable_tokens(batch: PolicyBatch) -> Bool[Array, "B T"]:
    """Completion tokens of the rows that could be graded."""
    return batch.completion_mask & ~jnp.isnan(batch.rewards)[:, None]


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
