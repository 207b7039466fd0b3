"""Scores of a reward model, on the device."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.sharding import batch_sharding, row_shards
from rlhf_jax.types import Model, Params

ModelRewards = Callable[[Int[Array, "B T"], Bool[Array, "B T"]], Float[np.ndarray, " B"]]


def make_model_rewards(model: Model, params: Params, *, mesh: Mesh) -> ModelRewards:
    """A reward model as a function of tokens: its scalar head, read at the last present token.

    One compilation per shape of the batch. Not differentiated.

    Args:
      model: with a scalar head (`algorithm: reward_model`, or a ``..ForSequenceClassification`` folder with one label).
      params: its parameters, placed on the mesh.
      mesh: the device mesh; rows are divided over `data` and `fsdp`.

    Returns:
      (tokens [B, T], mask [B, T]; right-padded prompt ++ completion) -> float32 NumPy [B], reward units; NaN for a row
      without tokens.

    Raises:
      ValueError: the model has no scalar head.
    """
    if model.scores is None:
        raise ValueError(
            "the reward model has no scalar head: give one trained by algorithm reward_model, or *ForSequenceClassification"
        )
    scores = model.scores
    shards = row_shards(mesh)

    @jax.jit
    def score(params: Params, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"]) -> Float[Array, " B"]:
        last = jnp.where(mask, jnp.arange(mask.shape[1])[None, :], -1).max(axis=1)
        read = jnp.take_along_axis(scores(params, tokens, mask), jnp.maximum(last, 0)[:, None], axis=1)[:, 0]
        return jnp.where(last >= 0, read, jnp.nan).astype(jnp.float32)

    def rewards(tokens: Int[Array, "B T"], mask: Bool[Array, "B T"]) -> Float[np.ndarray, " B"]:
        rows = len(tokens)
        filler = ((0, -rows % shards), (0, 0))
        padded = np.pad(np.asarray(tokens), filler), np.pad(np.asarray(mask), filler)
        return np.asarray(score(params, *jax.device_put(padded, batch_sharding(mesh))))[:rows]

    return rewards
