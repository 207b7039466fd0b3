"""Attention in blocks of queries that fit a cache: the form for CPUs.

First how queries are cut into groups and blocks and folded into rows (`_groups`, `_fold`), then
`_forward` and `_backward`, which walk those blocks.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from rlhf_jax.models.attention.plain import Static, near
from rlhf_jax.models.documents import Documents, together

_MIN_GROUP = 64
_MAX_GROUPS = 8
_FORWARD_TILE = 2 * 2**20
_BACKWARD_TILE = 1 * 2**20


class _Group(NamedTuple):
    """Queries ``[start, stop)`` see keys ``[first, stop)`` only, walked `size` at a time."""

    start: int
    stop: int
    first: int
    size: int


def _groups(q: Array, window: int | None, tile: int) -> Iterator[_Group]:
    """Groups of 64 queries, or larger so that at most 8 are unrolled in the program.

    Inside a group a loop walks blocks of 16, 32, ... queries, so that one block of scores has at
    most about `tile` entries: on a CPU it stays in cache, and the loop makes the compiler reuse one
    buffer.
    """
    batch, length, heads, _ = q.shape
    # The program grows with the number of groups, the waste (keys beyond the diagonal) falls with
    # it: at most 8, of 64 queries or a multiple.
    span = max(_MIN_GROUP, -(-length // (_MAX_GROUPS * _MIN_GROUP)) * _MIN_GROUP)
    for start in range(0, length, span):
        # Keys that no query of the group sees are not even multiplied.
        first = 0 if window is None else max(0, start - window + 1)
        stop = min(start + span, length)
        size = stop - start
        # Halve the block until its scores fit the tile; shapes stay divisors of the group.
        while size % 32 == 0 and batch * heads * size * (stop - first) > tile:
            size //= 2
        yield _Group(start, stop, first, size)


def _fold(x: Float[Array, "B T N H"], group: _Group, kv_heads: int) -> Float[Array, "n B K bG H"]:
    """The group's blocks; heads of one key/value head become rows of one matrix, token-major."""
    batch, _, heads, dim = x.shape
    mine = x[:, group.start : group.stop].reshape(
        batch, -1, group.size, kv_heads, heads // kv_heads, dim
    )
    return mine.transpose(1, 0, 3, 2, 4, 5).reshape(mine.shape[1], batch, kv_heads, -1, dim)


def _unfold(x: Float[Array, "n B K bG H"], group: _Group) -> Float[Array, "B t N H"]:
    steps, batch, kv_heads, _, dim = x.shape
    split = x.reshape(steps, batch, kv_heads, group.size, -1, dim)
    return split.transpose(1, 0, 3, 2, 4, 5).reshape(batch, group.stop - group.start, -1, dim)


def _walk(body: Callable[..., Any], carry: Any, blocks: Any) -> tuple[Any, Any]:
    """`lax.scan`, without a loop when there is one block."""
    if jax.tree.leaves(blocks)[0].shape[0] > 1:
        return lax.scan(body, carry, blocks)
    carry, out = body(carry, jax.tree.map(lambda x: x[0], blocks))
    return carry, jax.tree.map(lambda x: x[None], out)


def _score_maps(
    static: Static,
) -> tuple[Callable[[Array], Array], Callable[[Array, Array], Array]]:
    """From products q.k to scores, and (gradient of scores, scores) to gradients of products."""
    scale = static.scale
    cap = static.softcap
    if cap is None:
        return (lambda x: x * scale), (lambda d, s: d * scale)
    return (lambda x: cap * jnp.tanh(x * (scale / cap))), (
        lambda d, s: d * (1 - jnp.square(s / cap)) * scale
    )


def _places(
    group: _Group, heads_per_key: int, documents: Documents | None
) -> tuple[Array, Documents | None]:
    """Column ``[n, bG]`` and document ``[n, B, bG]`` of every folded query row of the group."""
    rows = jnp.repeat(jnp.arange(group.start, group.stop), heads_per_key).reshape(
        -1, group.size * heads_per_key
    )
    if documents is None:
        return rows, None

    def folded(x: Array) -> Array:
        own = jnp.repeat(x, heads_per_key, axis=1)
        return own.reshape(own.shape[0], *rows.shape).swapaxes(0, 1)

    return rows, jax.tree.map(folded, documents.columns(slice(group.start, group.stop)))


def _block_mask(
    places: tuple[Array, Documents | None],
    group: _Group,
    documents: Documents | None,
    static: Static,
) -> Array:
    """Keys that each query row of one block sees, ``[1 or B, 1, bG, S]``."""
    rows, own = places
    keys = jnp.arange(group.first, group.stop)
    seen = near(rows, keys, static.columns)[None]
    if documents is not None and own is not None:
        theirs = documents.columns(slice(group.first, group.stop))
        seen = seen & together(own, theirs, static.window)
    return seen[:, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def blocked(q: Array, k: Array, v: Array, documents: Documents | None, static: Static) -> Array:
    """Blocks of queries, each against its own prefix (or window) of keys only, recomputed in the
    backward pass from the saved log-sum-exp (Dao et al. 2022, arXiv 2205.14135).

    Never holds ``[B, N, T, T]``, but at most 8 blocks of about 2M scores (backward: 1M).

    Args:
      q, k, v: as for `attention`.
      documents: of packed rows.
      static: what else scores depend on.
    """
    return _forward(q, k, v, documents, static)[0]


def _forward(q, k, v, documents, static):
    exact = jnp.promote_types(q.dtype, jnp.float32)
    kv_heads = k.shape[2]
    # Turned once, outside of the loops, into the order in which the products read them.
    keys_t = k.transpose(0, 2, 3, 1)
    values = v.transpose(0, 2, 1, 3)
    to_scores, _ = _score_maps(static)
    outs = []
    lses = []
    for group in _groups(q, static.columns, _FORWARD_TILE):
        theirs = slice(group.first, group.stop)

        def body(carry, block, group=group, theirs=theirs):
            rows, places = block
            product = jnp.einsum(
                "bkrh,bkhs->bkrs", rows, keys_t[..., theirs], preferred_element_type=exact
            )
            seen = _block_mask(places, group, documents, static)
            # A block holds all keys that its queries see: the softmax is final, never rescaled.
            scores = jnp.where(seen, to_scores(product), -jnp.inf)
            peak = scores.max(axis=-1, keepdims=True)
            weights = jnp.exp(scores - peak)
            total = weights.sum(axis=-1, keepdims=True)
            mixed = jnp.einsum(
                "bkrs,bksh->bkrh",
                weights.astype(v.dtype),
                values[:, :, theirs],
                preferred_element_type=exact,
            )
            # Divided after the product: [rows, H] numbers instead of [rows, S]. The log-sum-exp is
            # all that the backward pass needs to make the weights again.
            return carry, (mixed / total, (peak + jnp.log(total))[..., 0])

        places = _places(group, q.shape[2] // kv_heads, documents)
        _, (mixed, lse) = _walk(body, None, (_fold(q, group, kv_heads), places))
        outs.append(_unfold(mixed, group))
        lses.append(_unfold(lse[..., None], group)[..., 0])
    # Named, so that a policy of `jax.checkpoint` can keep them instead of making them again.
    out = checkpoint_name(jnp.concatenate(outs, axis=1).astype(q.dtype), "attention")
    lse = checkpoint_name(jnp.concatenate(lses, axis=1), "attention_lse")
    return out, (q, k, v, documents, out, lse)


def _backward(static, saved, dout):
    """Scores are held transposed, ``[S, rows]``: products then have CPUs' fastest order."""
    q, k, v, documents, out, lse = saved
    exact = lse.dtype
    dtype = q.dtype
    kv_heads = k.shape[2]
    keys = k.transpose(0, 2, 1, 3)
    values = v.transpose(0, 2, 1, 3)
    keys_t = k.transpose(0, 2, 3, 1)
    # sum_s w_s dw_s = dout . out: the softmax's own term, without the weights.
    inner = jnp.einsum("btnh,btnh->btn", dout, out, preferred_element_type=exact)
    to_scores, to_products = _score_maps(static)
    dqs = []
    dk = jnp.zeros(keys.shape, exact)
    dv = jnp.zeros(values.shape, exact)
    for group in _groups(q, static.columns, _BACKWARD_TILE):
        theirs = slice(group.first, group.stop)

        def body(carry, block, group=group, theirs=theirs):
            dk, dv = carry
            rows, rows_t, douts, douts_t, lse, inner, places = block
            # Scores again, and the weights from the saved log-sum-exp: no second softmax.
            product = jnp.einsum(
                "bksh,bkhr->bksr", keys[:, :, theirs], rows_t, preferred_element_type=exact
            )
            scores = to_scores(product)
            seen = _block_mask(places, group, documents, static).swapaxes(2, 3)
            weights = jnp.where(seen, jnp.exp(scores - lse), 0)
            # d score = w (d w - sum w d w), then through softcap and scale.
            dweights = jnp.einsum(
                "bksh,bkhr->bksr", values[:, :, theirs], douts_t, preferred_element_type=exact
            )
            dproduct = to_products(weights * (dweights - inner), scores).astype(dtype)
            # Keys and values are shared by all queries behind them: their gradients add up over the
            # blocks (the carry); a query's gradient is its block's alone (the output).
            dv = dv + jnp.einsum(
                "bksr,bkrh->bksh", weights.astype(dtype), douts, preferred_element_type=exact
            )
            dk = dk + jnp.einsum("bksr,bkrh->bksh", dproduct, rows, preferred_element_type=exact)
            dq_t = jnp.einsum(
                "bkhs,bksr->bkhr", keys_t[..., theirs], dproduct, preferred_element_type=exact
            )
            return (dk, dv), dq_t

        rows, douts, lse_row, inner_row = (
            _fold(x, group, kv_heads) for x in (q, dout, lse[..., None], inner[..., None])
        )
        turned = (x.swapaxes(3, 4) for x in (rows, douts, lse_row, inner_row))
        rows_t, douts_t, lse_t, inner_t = turned
        blocks = (
            rows,
            rows_t,
            douts,
            douts_t,
            lse_t,
            inner_t,
            _places(group, q.shape[2] // kv_heads, documents),
        )
        # The groups' ranges of keys overlap, so each goes on from what the others have added.
        (dk_part, dv_part), dq_t = _walk(body, (dk[:, :, theirs], dv[:, :, theirs]), blocks)
        dk = dk.at[:, :, theirs].set(dk_part)
        dv = dv.at[:, :, theirs].set(dv_part)
        dqs.append(_unfold(dq_t.swapaxes(3, 4), group))
    dq = jnp.concatenate(dqs, axis=1).astype(dtype)
    return (
        dq,
        dk.transpose(0, 2, 1, 3).astype(k.dtype),
        dv.transpose(0, 2, 1, 3).astype(v.dtype),
        None,
    )


blocked.defvjp(_forward, _backward)
