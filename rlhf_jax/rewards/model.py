"""Scores of a reward model, on the device."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.programs import jitted, named, times
from rlhf_jax.sharding import in_parts
from rlhf_jax.types import Model, Params

ModelRewards = Callable[[Int[Array, "B T"], Bool[Array, "B T"]], Float[np.ndarray, " B"]]


def make_last_score(
    model: Model,
) -> Callable[[Params, Int[Array, "B T"], Bool[Array, "B T"]], Float[Array, " B"]]:
    """Builds a pure ``score(params, tokens, mask)``: float32 head at the last token; NaN if empty.

    Args:
      model: with a scalar head.

    Raises:
      ValueError: it has none.
    """
    if model.scores is None:
        raise ValueError(
            "the reward model has no scalar head: give one trained by algorithm reward_model, or "
            "*ForSequenceClassification"
        )
    scores = model.scores

    def score(
        params: Params, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"]
    ) -> Float[Array, " B"]:
        last = jnp.where(mask, jnp.arange(mask.shape[1])[None, :], -1).max(axis=1)
        read = jnp.take_along_axis(
            scores(params, tokens, mask), jnp.maximum(last, 0)[:, None], axis=1
        )[:, 0]
        return jnp.where(last >= 0, read, jnp.nan).astype(jnp.float32)

    return score


def make_model_rewards(
    model: Model, params: Params, *, mesh: Mesh, rows_at_once: int | None = None
) -> ModelRewards:
    """A reward model as a function of tokens: its scalar head, read at the last present token.

    One compilation per shape of a microbatch. Not differentiated.

    Args:
      model: with a scalar head (`algorithm: reward_model`, or a ``..ForSequenceClassification``
        folder with one label).
      params: its parameters, placed on the mesh.
      mesh: the device mesh; rows are divided over `data` and `fsdp`.
      rows_at_once: rows of a forward pass at most, as many as the trainer's microbatch has, so that
        grading needs no more memory than training; a generation batch has many times more. None:
        all.

    Returns:
      (tokens [B, T], mask [B, T]; right-padded prompt ++ completion) -> float32 NumPy [B], reward
      units; NaN for a row without tokens.

    Raises:
      ValueError: the model has no scalar head, or `rows_at_once` is not a multiple of the mesh's
        rows.
    """
    score = named(
        "reward model",
        jitted(make_last_score(model)),
        lambda params, tokens, mask: f"{times(*tokens.shape)} tokens",
    )
    return in_parts(functools.partial(score, params), mesh=mesh, rows_at_once=rows_at_once)
