"""Looking up token embeddings, on one device or with the table divided over a mesh."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from rlhf_jax.sharding import BATCH_AXES

_VOCAB_AXIS = "tensor"


def lookup(
    table: Float[Array, "V D"], tokens: Int[Array, "B T"], mesh: Mesh | None
) -> Float[Array, "B T D"]:
    """Rows of a table.

    On a mesh every device looks up its own tokens in its part of the vocabulary, and the parts are
    summed over `tensor`. Left to itself, the partitioner gathers the tokens of the whole batch
    instead and reduces ``[B, T, D]`` of it everywhere.

    Args:
      table: embeddings; gradients flow.
      tokens: row numbers. One outside the vocabulary gives NaN, so that it does not go unseen.
      mesh: None outside a mesh.

    Returns:
      Dtype of the table.
    """
    if mesh is None or mesh.size == 1:
        return jnp.take(table, tokens, axis=0, mode="fill", fill_value=jnp.nan)
    parts = mesh.shape[_VOCAB_AXIS]
    divided = parts > 1 and table.shape[0] % parts == 0

    def local(rows: Array, tokens: Array) -> Array:
        if not divided:
            return jnp.take(rows, tokens, axis=0, mode="fill", fill_value=jnp.nan)
        own = tokens - lax.axis_index(_VOCAB_AXIS) * rows.shape[0]
        found = (own >= 0) & (own < rows.shape[0])
        values = jnp.take(rows, jnp.where(found, own, 0), axis=0, mode="clip")
        summed = lax.psum(jnp.where(found[:, :, None], values, 0), _VOCAB_AXIS)
        known = (tokens >= 0) & (tokens < rows.shape[0] * parts)
        return jnp.where(known[:, :, None], summed, jnp.nan)

    by_rows = PartitionSpec(BATCH_AXES, None)
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec(_VOCAB_AXIS if divided else None, None), by_rows),
        out_specs=PartitionSpec(BATCH_AXES, None, None),
    )(table, tokens)
