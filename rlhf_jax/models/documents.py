"""Packed rows: which tokens belong to one sequence, and where in it they are."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class Documents(NamedTuple):
    """Which tokens of packed rows belong together."""

    ids: Int[Array, "B T"]
    """Number of the document of each token."""
    prefix_ids: Int[Array, "B T"] | None = None
    """The document that a token sees besides its own: a prompt that several completions share, and
    that lies before them. -1: none."""
    positions: Int[Array, "B T"] | None = None
    """With `prefix_ids`: position of each token in its own sequence, which windows count in."""

    def columns(self, columns: slice) -> "Documents":
        """Some columns of the rows."""
        return jax.tree.map(lambda x: x[:, columns], self)


def together(queries: Documents, keys: Documents, window: int | None) -> Bool[Array, "B T S"]:
    """Which keys belong to each query's document, or to the prompt that it shares; near enough in
    positions where those are given.

    Args:
      queries: of T tokens.
      keys: of S tokens.
      window: of the layer, tokens; None is unlimited.
    """
    same = queries.ids[:, :, None] == keys.ids[:, None, :]
    if queries.prefix_ids is None or queries.positions is None or keys.positions is None:
        return same
    same |= queries.prefix_ids[:, :, None] == keys.ids[:, None, :]
    if window is not None:
        same &= queries.positions[:, :, None] - keys.positions[:, None, :] < window
    return same


def document_positions(segment_ids: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Positions that restart at 0 with every packed document: the index minus its start's.

    Args:
      segment_ids: number of the document at every token; equal numbers are adjacent.

    Returns:
      int32 [B, T].
    """
    index = jnp.arange(segment_ids.shape[1], dtype=jnp.int32)[None, :]
    starts = jnp.concatenate(
        [jnp.ones_like(segment_ids[:, :1], bool), segment_ids[:, 1:] != segment_ids[:, :-1]], axis=1
    )
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
