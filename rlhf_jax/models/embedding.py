"""Looking up token embeddings, on one device or with the table divided over a mesh.

On a mesh either the table travels or the tokens do (`_Way`), whichever is less: a table of 128,256
rows to 32,768 tokens, or the states of these to the shards of a table. `_forward` and `_backward`
are one rule of differentiation for both.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from rlhf_jax.sharding import BATCH_AXES

_TENSOR = "tensor"
_FSDP = "fsdp"
_BY_ROWS = PartitionSpec(BATCH_AXES, None)
_STATES = PartitionSpec(BATCH_AXES, None, None)


def lookup(
    table: Float[Array, "V D"],
    tokens: Int[Array, "B T"],
    mesh: Mesh | None,
    dtype: DTypeLike | None = None,
) -> Float[Array, "B T D"]:
    """Rows of a table.

    On a mesh the parts of the vocabulary on `tensor` are each looked up by themselves and summed.
    Left to itself, the partitioner gathers the tokens of the whole batch instead and reduces
    ``[B, T, D]`` of it everywhere.

    Over `fsdp` the table's shards are cast to `dtype` and gathered, and their gradients, added up
    in float32 by each device for its own tokens, scattered back; or, where that is less to move,
    token numbers are gathered, every device looks up those that its shard has, and the states are
    scattered back to their rows. Gradients are summed over `data` shard by shard. Derived from the
    lookup the gradient would be a float32 sum of whole tables over all devices, in every
    microbatch.

    Args:
      table: embeddings; gradients flow.
      tokens: row numbers. One outside the vocabulary gives NaN, so that it does not go unseen.
      mesh: None outside a mesh.
      dtype: of the result; None: that of the table.

    Returns:
      `dtype`.
    """
    dtype = jnp.dtype(table.dtype if dtype is None else dtype)
    if mesh is None or mesh.size == 1:
        return jnp.take(table, tokens, axis=0, mode="fill", fill_value=jnp.nan).astype(dtype)
    return _on_mesh(table, tokens, mesh, dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _on_mesh(table: Array, tokens: Array, mesh: Mesh, dtype: jnp.dtype) -> Array:
    way = _way(table, tokens, mesh, dtype)

    def local(shard: Array, tokens: Array) -> Array:
        if way.gathers_table:
            shard = lax.all_gather(shard.astype(dtype), _FSDP, axis=0, tiled=True)
        own, found = way.places(way.wanted(tokens), shard.shape[0])
        values = jnp.take(shard, jnp.where(found, own, 0), axis=0, mode="clip").astype(dtype)
        values = jnp.where(found[:, :, None], values, 0)
        if way.gathers_tokens:
            values = lax.psum_scatter(values, _FSDP, scatter_dimension=0, tiled=True)
        if _TENSOR in way.axes and mesh.shape[_TENSOR] > 1:
            values = lax.psum(values, _TENSOR)
        known = (tokens >= 0) & (tokens < table.shape[0])
        return jnp.where(known[:, :, None], values, jnp.nan)

    return jax.shard_map(
        local, mesh=mesh, in_specs=(way.by_vocab, _BY_ROWS), out_specs=_STATES, check_vma=False
    )(table, tokens)


def _forward(
    table: Array, tokens: Array, mesh: Mesh, dtype: jnp.dtype
) -> tuple[Array, tuple[Array, Array]]:
    # Of the table the backward pass needs the shape and dtype alone: an empty slice has both.
    return _on_mesh(table, tokens, mesh, dtype), (table[:, :0], tokens)


def _backward(
    mesh: Mesh, dtype: jnp.dtype, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, None]:
    like, tokens = saved
    way = _way(like, tokens, mesh, dtype)
    exact = jnp.promote_types(like.dtype, jnp.float32)

    def local(tokens: Array, gradient: Array) -> Array:
        if way.gathers_tokens:
            gradient = lax.all_gather(gradient, _FSDP, axis=0, tiled=True)
        own, found = way.places(way.wanted(tokens), way.rows)
        # A row number behind the last one is dropped; -1 would be the last one.
        places = jnp.where(found, own, way.rows)
        part = jnp.zeros((way.rows, gradient.shape[-1]), exact)
        part = part.at[places].add(gradient.astype(exact), mode="drop")
        if way.gathers_table:
            part = lax.psum_scatter(part, _FSDP, scatter_dimension=0, tiled=True)
        others = [axis for axis in BATCH_AXES if axis not in way.axes]
        return lax.psum(part, others).astype(like.dtype)

    table = jax.shard_map(
        local, mesh=mesh, in_specs=(_BY_ROWS, _STATES), out_specs=way.by_vocab, check_vma=False
    )(tokens, gradient)
    return table, None


_on_mesh.defvjp(_forward, _backward)


class _Way(NamedTuple):
    """How tokens and table come together."""

    axes: tuple[str, ...]
    """Mesh axes that the vocabulary is divided over, the outermost first, as `AXIS_RULES` has it;
    none where it does not divide, and the table is whole on every device."""
    gathers_table: bool
    gathers_tokens: bool
    rows: int
    """Of the table that a device looks its tokens up in."""

    @property
    def by_vocab(self) -> PartitionSpec:
        """The table's layout."""
        return PartitionSpec(self.axes or None, None)

    def wanted(self, tokens: Array) -> Array:
        """The tokens that a device looks up."""
        if self.gathers_tokens:
            return lax.all_gather(tokens, _FSDP, axis=0, tiled=True)
        return tokens

    def places(self, tokens: Array, rows: int) -> tuple[Array, Array]:
        """Each token's row in this device's `rows` rows, and whether it is there."""
        axes = tuple(axis for axis in self.axes if axis != _FSDP or not self.gathers_table)
        own = tokens - lax.axis_index(axes) * rows if axes else tokens
        return own, (own >= 0) & (own < rows)


def _way(table: Array, tokens: Array, mesh: Mesh, dtype: jnp.dtype) -> _Way:
    """The way that moves less. `table` may lack its columns."""
    vocab = table.shape[0]
    axes: tuple[str, ...] = ()
    for tried in ((_TENSOR, _FSDP), (_TENSOR,)):
        if not axes and vocab % math.prod(mesh.shape[axis] for axis in tried) == 0:
            axes = tried
    rows = vocab // math.prod(mesh.shape[axis] for axis in axes)
    if _FSDP not in axes or mesh.shape[_FSDP] == 1:
        return _Way(axes, False, False, rows)
    # Of each column: the part of the table that is gathered and its gradient that is scattered; or
    # states that are scattered and gradients that are gathered, of the tokens of one `data` index.
    # Compiled for 64 v6e, data=4, fsdp=16, 64 rows of 2048 tokens, a table of 128256 x 4096: each
    # chip sends 0.7 GB with the tokens and 3.2 with the table, temporaries are 0.75 and 2.2 GiB.
    whole = rows * mesh.shape[_FSDP]
    exact = jnp.promote_types(table.dtype, jnp.float32)
    of_table = whole * (dtype.itemsize + exact.itemsize)
    of_tokens = tokens.size // mesh.shape["data"] * 2 * dtype.itemsize
    if of_tokens < of_table:
        return _Way(axes, False, True, rows)
    return _Way(axes, True, False, whole)
