"""Attention as plain products and softmax: the definition, and what compilers recognise of it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from rlhf_jax.models.documents import Documents, together


class Static(NamedTuple):
    """What the compiled program depends on besides shapes."""

    columns: int | None
    """That any token looks back at most."""
    window: int | None
    softcap: float | None
    scale: float


def plain(q: Array, k: Array, v: Array, documents: Documents | None, static: Static) -> Array:
    """All scores at once, ``[B, N, T, T]`` of them; the reference that the others are tested
    against.

    Args:
      q, k, v: as for `attention`.
      documents: of packed rows.
      static: what else scores depend on.
    """
    exact = jnp.promote_types(q.dtype, jnp.float32)
    batch, length, heads, dim = q.shape
    # Query heads in groups of their key head: no key or value is repeated in memory.
    grouped = q.reshape(batch, length, k.shape[2], heads // k.shape[2], dim)
    scores = jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=exact)
    scores = scores * static.scale
    if static.softcap is not None:
        scores = static.softcap * jnp.tanh(scores / static.softcap)
    seen = near(jnp.arange(length), jnp.arange(length), static.columns)[None]
    if documents is not None:
        seen = seen & together(documents, documents, static.window)
    # No row is empty, since a token sees itself: -inf cannot make a NaN.
    weights = jax.nn.softmax(jnp.where(seen[:, None, None], scores, -jnp.inf), axis=-1)
    mixed = jnp.einsum(
        "bkgts,bskh->btkgh", weights.astype(v.dtype), v, preferred_element_type=exact
    )
    return mixed.reshape(q.shape).astype(q.dtype)


def dot_product(q: Array, k: Array, v: Array, documents: Documents | None, static: Static) -> Array:
    """`jax.nn.dot_product_attention`, which compilers for GPU and TPU recognise. No softcap.

    Args:
      q, k, v: as for `attention`.
      documents: of packed rows: a mask ``[B, 1, T, T]``.
      static: what else scores depend on.
    """
    mask = None
    if documents is not None:
        mask = together(documents, documents, static.window)[:, None]
    local = None if static.columns is None else (static.columns - 1, 0)
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        mask=mask,
        scale=static.scale,
        is_causal=True,
        local_window_size=local,
    )


def near(
    queries: Int[Array, " T"], keys: Int[Array, " S"], window: int | None
) -> Bool[Array, "T S"]:
    """Which key positions each query position may see.

    Args:
      queries: their positions.
      keys: theirs.
      window: positions that a query looks back at most, itself included; None: all.
    """
    behind = queries[:, None] - keys[None, :]
    return (behind >= 0) if window is None else (behind >= 0) & (behind < window)
