"""Causal self-attention over right-padded rows, with grouped key/value heads, windows, soft-capping and packed documents."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

IMPLEMENTATIONS = ("auto", "blocked", "dot_product", "xla")

_MIN_BLOCK = 64
_MAX_BLOCKS = 16


def attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    window: int | None = None,
    softcap: float | None = None,
    scale: float,
    implementation: str = "auto",
) -> Float[Array, "B T N H"]:
    """Scaled dot-product attention in which token t sees tokens s <= t.

        out[b, t, n] = sum_s softmax_s(cap(scale * q[b, t, n] . k[b, s, n // (N/K)])) v[b, s, n // (N/K)]

    with ``cap(x) = softcap * tanh(x / softcap)`` when `softcap` is given. Softmax statistics are float32 (float64 stays).
    Rows are right-padded, so real tokens never see padding and no padding mask exists; outputs at padding are finite and
    mean nothing. Every token sees at least itself, so no softmax is empty.

    Implementations:

    * ``"blocked"``: blocks of queries, each against its own prefix (or window) of keys only, recomputed in the backward pass
      from the saved log-sum-exp (Dao et al. 2022, arXiv 2205.14135). Holds one block of scores, never ``[B, N, T, T]``.
    * ``"dot_product"``: `jax.nn.dot_product_attention`, which compilers for GPU and TPU recognise. No softcap.
    * ``"xla"``: plain products and softmax; the reference that the others are tested against.
    * ``"auto"``: "blocked" on CPU; elsewhere "dot_product", or "xla" when there is a softcap.

    Args:
        q: queries; gradients flow to q, k and v.
        k: keys; K divides N, and heads are never repeated in memory.
        v: values.
        segment_ids: number of the packed document each token belongs to; tokens attend within their document only, exactly.
        window: a token sees itself and ``window - 1`` tokens before it; None is unlimited.
        softcap: bound on the scores (Gemma 2), > 0.
        scale: factor on the scores, usually ``H ** -0.5``.
        implementation: one of the above.

    Returns:
        Array like `q`.

    Raises:
        ValueError: an unknown implementation, "dot_product" with a softcap, heads that do not divide, a window or softcap <= 0.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"attention={implementation!r} is unknown; allowed: {', '.join(IMPLEMENTATIONS)}")
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"{q.shape[2]} query heads are not a multiple of {k.shape[2]} key/value heads; change num_kv_heads")
    if window is not None and window < 1:
        raise ValueError(f"attention window {window} must be at least 1; pass None for no window")
    if softcap is not None and softcap <= 0:
        raise ValueError(f"attention softcap {softcap} must be positive; pass None for no softcap")
    if implementation == "auto":
        away = "xla" if softcap is not None else "dot_product"
        implementation = "blocked" if jax.default_backend() == "cpu" else away
    if implementation == "dot_product":
        if softcap is not None:
            raise ValueError(f"attention='dot_product' cannot apply softcap={softcap}; use attention='auto', 'blocked' or 'xla'")
        return _dot_product(q, k, v, segment_ids, window, scale)
    if implementation == "xla":
        return _plain(q, k, v, segment_ids, window, softcap, scale)
    return _blocked(q, k, v, segment_ids, _Static(window, softcap, scale))


def _dot_product(q, k, v, segment_ids, window, scale) -> Array:
    mask = None
    if segment_ids is not None:
        mask = (segment_ids[:, :, None] == segment_ids[:, None, :])[:, None]
    local = None if window is None else (window - 1, 0)
    return jax.nn.dot_product_attention(q, k, v, mask=mask, scale=scale, is_causal=True, local_window_size=local)


def _plain(q, k, v, segment_ids, window, softcap, scale) -> Array:
    exact = jnp.promote_types(q.dtype, jnp.float32)
    batch, length, heads, dim = q.shape
    grouped = q.reshape(batch, length, k.shape[2], heads // k.shape[2], dim)
    scores = jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=exact) * scale
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    seen = _seen(jnp.arange(length), jnp.arange(length), window)[None]
    if segment_ids is not None:
        seen = seen & (segment_ids[:, :, None] == segment_ids[:, None, :])
    weights = jax.nn.softmax(jnp.where(seen[:, None, None], scores, -jnp.inf), axis=-1)
    mixed = jnp.einsum("bkgts,bskh->btkgh", weights.astype(v.dtype), v, preferred_element_type=exact)
    return mixed.reshape(q.shape).astype(q.dtype)


def _seen(queries: Int[Array, " T"], keys: Int[Array, " S"], window: int | None) -> Bool[Array, "T S"]:
    """Which key positions each query position may see."""
    behind = queries[:, None] - keys[None, :]
    return (behind >= 0) if window is None else (behind >= 0) & (behind < window)


class _Static(NamedTuple):
    """What the compiled program depends on besides shapes."""

    window: int | None
    softcap: float | None
    scale: float


class _Block(NamedTuple):
    """Queries ``[start, stop)`` see keys ``[first, stop)`` and no others."""

    start: int
    stop: int
    first: int


def _blocks(length: int, window: int | None) -> Iterator[_Block]:
    """Blocks of 64 queries, or larger so that there are at most 16: the program is unrolled over them."""
    size = max(_MIN_BLOCK, -(-length // (_MAX_BLOCKS * _MIN_BLOCK)) * _MIN_BLOCK)
    for start in range(0, length, size):
        first = 0 if window is None else max(0, start - window + 1)
        yield _Block(start, min(start + size, length), first)


def _fold(x: Float[Array, "B T N H"], kv_heads: int) -> Float[Array, "B K TG H"]:
    """Heads of one group become rows of one matrix, token-major, so that a block of tokens is a slice."""
    batch, length, heads, dim = x.shape
    grouped = x.reshape(batch, length, kv_heads, heads // kv_heads, dim)
    return grouped.transpose(0, 2, 1, 3, 4).reshape(batch, kv_heads, -1, dim)


def _unfold(x: Float[Array, "B K TG H"], length: int) -> Float[Array, "B T N H"]:
    batch, kv_heads, rows, dim = x.shape
    grouped = x.reshape(batch, kv_heads, length, rows // length, dim)
    return grouped.transpose(0, 2, 1, 3, 4).reshape(batch, length, -1, dim)


def _score_maps(static: _Static) -> tuple[Callable[[Array], Array], Callable[[Array, Array], Array]]:
    """From products q.k to scores, and from (gradient of scores, scores) to the gradient of products."""
    scale, cap = static.scale, static.softcap
    if cap is None:
        return (lambda x: x * scale), (lambda d, s: d * scale)
    return (lambda x: cap * jnp.tanh(x * (scale / cap))), (lambda d, s: d * (1 - jnp.square(s / cap)) * scale)


def _mask(block: _Block, group: int, segment_ids: Array | None, static: _Static) -> Bool[Array, "b 1 bG S"]:
    """Keys that each folded query row of the block sees."""
    rows = jnp.repeat(jnp.arange(block.start, block.stop), group)
    seen = _seen(rows, jnp.arange(block.first, block.stop), static.window)[None]
    if segment_ids is not None:
        own = jnp.repeat(segment_ids[:, block.start : block.stop], group, axis=1)
        seen = seen & (own[:, :, None] == segment_ids[:, None, block.first : block.stop])
    return seen[:, None]


def _blocked_primal(q, k, v, segment_ids, static):
    return _blocked_fwd(q, k, v, segment_ids, static)[0]


_blocked = jax.custom_vjp(_blocked_primal, nondiff_argnums=(4,))


def _blocked_fwd(q, k, v, segment_ids, static):
    exact = jnp.promote_types(q.dtype, jnp.float32)
    length, kv_heads = q.shape[1], k.shape[2]
    group = q.shape[2] // kv_heads
    rows, keys_t, values = _fold(q, kv_heads), k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)
    to_scores, _ = _score_maps(static)
    outs, lses = [], []
    for block in _blocks(length, static.window):
        mine, theirs = slice(block.start * group, block.stop * group), slice(block.first, block.stop)
        product = jnp.einsum("bkrh,bkhs->bkrs", rows[:, :, mine], keys_t[..., theirs], preferred_element_type=exact)
        scores = jnp.where(_mask(block, group, segment_ids, static), to_scores(product), -jnp.inf)
        peak = scores.max(axis=-1, keepdims=True)
        weights = jnp.exp(scores - peak)
        total = weights.sum(axis=-1, keepdims=True)
        mixed = jnp.einsum("bkrs,bksh->bkrh", weights.astype(v.dtype), values[:, :, theirs], preferred_element_type=exact)
        outs.append(mixed / total)
        lses.append((peak + jnp.log(total))[..., 0])
    out = _unfold(jnp.concatenate(outs, axis=2), length).astype(q.dtype)
    return out, (q, k, v, segment_ids, out, jnp.concatenate(lses, axis=2))


def _blocked_bwd(static, saved, dout):
    """Scores are held transposed, ``[S, rows]``: every product then has its operands in the order that CPUs are fastest at."""
    q, k, v, segment_ids, out, lse = saved
    exact, dtype = lse.dtype, q.dtype
    length, kv_heads = q.shape[1], k.shape[2]
    group = q.shape[2] // kv_heads
    rows, douts = _fold(q, kv_heads), _fold(dout, kv_heads)
    rows_t, douts_t = rows.swapaxes(2, 3), douts.swapaxes(2, 3)
    keys, values, keys_t = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3), k.transpose(0, 2, 3, 1)
    inner = jnp.einsum("bkrh,bkrh->bkr", douts, _fold(out, kv_heads), preferred_element_type=exact)
    to_scores, to_products = _score_maps(static)
    dqs_t = []
    dk = jnp.zeros(keys.shape, exact)
    dv = jnp.zeros(values.shape, exact)
    for block in _blocks(length, static.window):
        mine, theirs = slice(block.start * group, block.stop * group), slice(block.first, block.stop)
        product = jnp.einsum("bksh,bkhr->bksr", keys[:, :, theirs], rows_t[..., mine], preferred_element_type=exact)
        scores = to_scores(product)
        seen = _mask(block, group, segment_ids, static).swapaxes(2, 3)
        weights = jnp.where(seen, jnp.exp(scores - lse[:, :, None, mine]), 0)
        dweights = jnp.einsum("bksh,bkhr->bksr", values[:, :, theirs], douts_t[..., mine], preferred_element_type=exact)
        dproduct = to_products(weights * (dweights - inner[:, :, None, mine]), scores).astype(dtype)
        part = jnp.einsum("bksr,bkrh->bksh", weights.astype(dtype), douts[:, :, mine], preferred_element_type=exact)
        dv = dv.at[:, :, theirs].add(part)
        part = jnp.einsum("bksr,bkrh->bksh", dproduct, rows[:, :, mine], preferred_element_type=exact)
        dk = dk.at[:, :, theirs].add(part)
        dqs_t.append(jnp.einsum("bkhs,bksr->bkhr", keys_t[..., theirs], dproduct, preferred_element_type=exact))
    dq = _unfold(jnp.concatenate(dqs_t, axis=3).swapaxes(2, 3), length)
    return dq.astype(dtype), dk.transpose(0, 2, 1, 3).astype(k.dtype), dv.transpose(0, 2, 1, 3).astype(v.dtype), None


_blocked.defvjp(_blocked_fwd, _blocked_bwd)
