"""Keys and values of past tokens, and attention of one new token per row over two such segments."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.sharding import AXIS_RULES, constrain


class KVCache(NamedTuple):
    """Keys and values of all layers. Rows are prompts, or sequences whose completion it holds.

    One leaf holds the layers that one `scan` runs over. With unrolled layers there is a leaf per
    layer, without the axis L, so that nothing is sliced out of a larger array or seen under two
    shapes: a compiler would copy it. S is the slot of a token: its position in a prompt, or its
    place in a completion's ring.
    """

    keys: tuple[Float[Array, "*L B K H S"], ...]
    values: tuple[Float[Array, "*L B K S H"], ...]

    @property
    def rows(self) -> int:
        """B."""
        return self.keys[0].shape[-4]

    @property
    def slots(self) -> int:
        """S."""
        return self.keys[0].shape[-1]

    def take(self, rows: Int[Array, " N"], *, parts: int = 1) -> "KVCache":
        """These rows, in this order; a row may come more than once.

        Args:
          rows: numbers of rows.
          parts: runs of equal length that both the cache's rows and `rows` consist of; each gives
            rows of its own, and `rows` counts within it. Parts that lie on different devices then
            send each other nothing.
        """
        own = jnp.asarray(rows).reshape(parts, -1)

        def of_parts(leaf: Array) -> Array:
            axis = leaf.ndim - 4
            taken = jax.vmap(
                lambda part, rows: jnp.take(part, rows, axis=axis, mode="clip"), (axis, 0), axis
            )(_in_parts(leaf, parts), own)
            return taken.reshape(*leaf.shape[:axis], own.size, *leaf.shape[axis + 1 :])

        return jax.tree.map(of_parts, self)

    def empty(self, rows: int, slots: int) -> "KVCache":
        """A cache for the same model with other sizes, all zeros."""
        keys = tuple(
            jnp.zeros((*k.shape[:-4], rows, *k.shape[-3:-1], slots), k.dtype) for k in self.keys
        )
        values = tuple(
            jnp.zeros((*v.shape[:-4], rows, v.shape[-3], slots, v.shape[-1]), v.dtype)
            for v in self.values
        )
        return KVCache(keys, values)

    def grown(self, slots: int, oldest: int | Int[Array, ""] = 0) -> "KVCache":
        """The ring with room for more: entries in order written, then zeros; write on behind them.

        Args:
          slots: the new size, at least the present one.
          oldest: the slot that would have been written next.
        """
        order = (oldest + jnp.arange(self.slots)) % self.slots
        more = slots - self.slots

        def widen(leaf: Array, axis: int) -> Array:
            pads = [(0, more if index == axis else 0) for index in range(leaf.ndim)]
            return jnp.pad(jnp.take(leaf, order, axis=axis, mode="clip"), pads)

        keys = tuple(widen(k, k.ndim - 1) for k in self.keys)
        return KVCache(keys, tuple(widen(v, v.ndim - 2) for v in self.values))

    def pinned(self, mesh: Mesh | None) -> "KVCache":
        """The same, laid out on a mesh: rows over `data` and `fsdp`, heads over `tensor`."""

        def pin(leaf: Array) -> Array:
            return constrain(leaf, mesh, _axes(leaf))

        return jax.tree.map(pin, self)

    def shardings(self, mesh: Mesh) -> "KVCache":
        """The layout of `pinned`, of arrays or shapes."""

        def where(leaf: Array) -> NamedSharding:
            axes = (None if axis is None else AXIS_RULES[axis] for axis in _axes(leaf))
            return NamedSharding(mesh, PartitionSpec(*axes))

        return jax.tree.map(where, self)

    def put(self, rows: "KVCache", first: int | Int[Array, ""], *, parts: int = 1) -> "KVCache":
        """The same with consecutive rows replaced.

        Args:
          rows: the new ones.
          first: index of the first one that is replaced.
          parts: as for `take`: each part has as many rows replaced by those of the same part of
            `rows`, and `first` counts within it.
        """

        def of_parts(leaf: Array, new: Array) -> Array:
            whole = lax.dynamic_update_slice_in_dim(
                _in_parts(leaf, parts), _in_parts(new, parts), first, axis=leaf.ndim - 3
            )
            return whole.reshape(leaf.shape)

        return jax.tree.map(of_parts, self, rows)


def _in_parts(leaf: Array, parts: int) -> Array:
    """Rows as [parts, rows of a part]."""
    axis = leaf.ndim - 4
    return leaf.reshape(*leaf.shape[:axis], parts, -1, *leaf.shape[axis + 1 :])


def _axes(leaf: Array) -> tuple[str | None, ...]:
    """Logical axes of keys or values."""
    return (*(None,) * (leaf.ndim - 4), "batch", "kv_heads", None, None)


class Segment(NamedTuple):
    """Keys and values of one layer that a new token may read, and which of them each row sees.

    There are as many rows of keys as of `seen`, or fewer: then consecutive rows share them.
    """

    keys: Float[Array, "P K H S"]
    values: Float[Array, "P K S H"]
    seen: Bool[Array, "B S"]


def write(
    cache: tuple[Array, Array],
    layer: int | Int[Array, ""],
    slot: Int[Array, ""],
    k: Array,
    v: Array,
) -> tuple[Array, Array]:
    """One token's keys and values into the same slot of all rows, in place in a caller's carry.

    Args:
      cache: keys [*L, B, K, H, S] and values [*L, B, K, S, H].
      layer: index into L, if there is such an axis.
      slot: index into S.
      k: [B, 1, K, H].
      v: [B, 1, K, H].
    """
    keys, values = cache
    lead = (layer,) * (keys.ndim - 4)
    new_k = (
        k.transpose(0, 2, 3, 1).astype(keys.dtype).reshape(*(1,) * len(lead), *keys.shape[-4:-1], 1)
    )
    new_v = (
        v.transpose(0, 2, 1, 3)
        .astype(values.dtype)
        .reshape(*(1,) * len(lead), *values.shape[-4:-2], 1, values.shape[-1])
    )
    return (
        lax.dynamic_update_slice(keys, new_k, (*lead, 0, 0, 0, slot)),
        lax.dynamic_update_slice(values, new_v, (*lead, 0, 0, slot, 0)),
    )


def read(cache: tuple[Array, Array], layer: int | Int[Array, ""]) -> tuple[Array, Array]:
    """Keys [B, K, H, S] and values [B, K, S, H] of one layer."""
    keys, values = (
        leaf if leaf.ndim == 4 else lax.dynamic_index_in_dim(leaf, layer, keepdims=False)
        for leaf in cache
    )
    return keys, values


def joint_attention(
    q: Float[Array, "B 1 N H"],
    segments: tuple[Segment, ...],
    *,
    scale: float,
    softcap: float | None,
) -> Float[Array, "B 1 N H"]:
    """One softmax over all segments, statistics in float32. Every row must see a token.

    Args:
      q: one query per row and head.
      segments: what it reads; heads that share a key/value head, and rows that share a segment, are
        one matrix product.
      scale: factor on the scores.
      softcap: bound on them, or None.

    Returns:
      Array like `q`.
    """
    exact = jnp.promote_types(q.dtype, jnp.float32)
    scores = []
    for segment in segments:
        product = (
            jnp.einsum(
                "pkrh,pkhs->pkrs", _folded(q, segment), segment.keys, preferred_element_type=exact
            )
            * scale
        )
        product = product if softcap is None else softcap * jnp.tanh(product / softcap)
        scores.append(jnp.where(_seen(q, segment), product, -jnp.inf))
    peak = _largest([_unfolded(score.max(-1, keepdims=True), q) for score in scores])
    total = jnp.zeros((), exact)
    mixed = jnp.zeros((), exact)
    for segment, score in zip(segments, scores, strict=True):
        weights = jnp.exp(score - _folded(peak, segment))
        part = jnp.einsum(
            "pkrs,pksh->pkrh",
            weights.astype(segment.values.dtype),
            segment.values,
            preferred_element_type=exact,
        )
        mixed = _unfolded(part, q) if mixed.ndim == 0 else mixed + _unfolded(part, q)
        own = _unfolded(weights.sum(-1, keepdims=True), q)
        total = own if total.ndim == 0 else total + own
    return (mixed / total).astype(q.dtype)


def _folded(x: Float[Array, "B 1 N H"], segment: Segment) -> Float[Array, "P K R H"]:
    """Rows and heads that read the same keys as rows of one matrix."""
    prompts, kv_heads = segment.keys.shape[:2]
    group = x.shape[0] // prompts
    heads = x.shape[2] // kv_heads
    split = x.reshape(prompts, group, kv_heads, heads, x.shape[3])
    return split.swapaxes(1, 2).reshape(prompts, kv_heads, group * heads, x.shape[3])


def _unfolded(x: Float[Array, "P K R H"], q: Array) -> Float[Array, "B 1 N H"]:
    prompts, kv_heads, _, width = x.shape
    rows, _, heads, _ = q.shape
    split = x.reshape(prompts, kv_heads, rows // prompts, heads // kv_heads, width)
    return split.swapaxes(1, 2).reshape(rows, 1, heads, width)


def _seen(q: Array, segment: Segment) -> Bool[Array, "P 1 R S"]:
    prompts, kv_heads = segment.keys.shape[:2]
    per_key = q.shape[2] // kv_heads
    return jnp.repeat(segment.seen, per_key, axis=0).reshape(prompts, 1, -1, segment.seen.shape[1])


def _largest(parts: list[Array]) -> Array:
    peak = parts[0]
    for part in parts[1:]:
        peak = jnp.maximum(peak, part)
    return peak
