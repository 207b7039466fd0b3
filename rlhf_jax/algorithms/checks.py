"""What an algorithm demands of a model and a batch: one-line errors for what is missing."""

from typing import Any

from jaxtyping import Array, Float

from rlhf_jax.types import Model, PerTokenFn


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
            mend = "call Algorithm.weigh" if field == "weights" else "score what Algorithm.needs names, then call prepare"
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
        raise ValueError(f"model.scores is missing: load or initialise the model with head={head!r}")
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
        raise ValueError(f"{rewards.shape[0]} completions do not divide into groups: group_size={group_size} must divide them")
    return rewards.reshape(-1, group_size)
