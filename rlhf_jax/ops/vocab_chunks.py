"""Statistics and gradients of vocabulary-sized softmaxes, chunk by chunk (inside `ops.fused`).

`forward` walks the vocabulary once with online statistics of every row; `backward` walks it again
and makes each chunk's logits anew. `_over_chunks` is the loop of both; the functions before it
bring rows of tokens to the columns of what they predict, and back. `ops.fused` wraps both into one
differentiable function, on one device or over a mesh.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from rlhf_jax.target import platform

_CPU_TILE = 4 * 2**20
_DEVICE_TILE = 128 * 2**20


class _Stats(NamedTuple):
    """Online statistics of the rows, all ``[N]``: e = exp(z - peak), z the logits seen so far."""

    peak: Array
    total: Array
    """Sum of e."""
    moment: Array | None
    """Sum of e * (z - peak); None where no entropy is wanted."""
    taken: Array
    """Logit of the taken token, 0 until its chunk has been seen."""


class Inputs(NamedTuple):
    """Arguments of `fused_token_logps`; a scalar that is None is left out of the computation."""

    hidden: Array
    unembed: Array
    tokens: Array
    scored: Array | None
    temperature: Array | None
    softcap: Array | None


class Saved(NamedTuple):
    """Residuals of the backward pass; the last two are ``[B, S]``, S the rows of a sequence."""

    inputs: Inputs
    log_total: Array
    entropy: Array | None


def _rows(
    hidden: Array, tokens: Array, scored: Array | None, gathered: bool
) -> tuple[Array, Array]:
    """The rows to compute: states ``[N, D]`` and the tokens they predict ``[N]``."""
    if scored is None:
        taken = jnp.roll(tokens, -1, axis=1)
    else:
        if not gathered:
            hidden = jax.vmap(lambda h, c: h[c])(hidden, jnp.maximum(scored - 1, 0))
        taken = jax.vmap(lambda t, c: t[c])(tokens, jnp.maximum(scored, 0))
    return hidden.reshape(-1, hidden.shape[2]), taken.reshape(-1)


def _columns(values: Array, scored: Array | None, shape: tuple[int, int]) -> Array:
    """Per-row results ``[N]`` to the column of the token predicted, ``[B, T]``."""
    if scored is None:
        return jnp.pad(values.reshape(shape)[:, :-1], ((0, 0), (1, 0)))
    spread = jax.vmap(lambda v, c: jnp.zeros(shape[1], v.dtype).at[c].set(v, mode="drop"))
    return spread(values.reshape(scored.shape), jnp.where(scored >= 1, scored, shape[1]))


def _pick(columns: Array, scored: Array | None) -> Array:
    """Transpose of `_columns`: ``[B, T]`` to rows ``[N]``."""
    if scored is None:
        return jnp.pad(columns[:, 1:], ((0, 0), (0, 1))).reshape(-1)
    picked = jax.vmap(lambda x, c: x[c])(columns, jnp.maximum(scored, 0))
    return jnp.where(scored >= 1, picked, 0).reshape(-1)


def _return_rows(
    drows: Array, scored: Array | None, gathered: bool, shape: tuple[int, int, int]
) -> Array:
    """Gradient of the rows ``[N, D]`` to the gradient of the states, ``[B, T or S, D]``."""
    if scored is None or gathered:
        return drows.reshape(shape)
    spread = jax.vmap(lambda d, c: jnp.zeros(shape[1:], d.dtype).at[c].set(d, mode="drop"))
    return spread(
        drows.reshape(*scored.shape, shape[2]), jnp.where(scored >= 1, scored - 1, shape[1])
    )


def _block_size(num_rows: int, vocab: int, block: int | None) -> int:
    """Vocabulary entries per chunk, by `fused_token_logps`' rule; as even as 128s allow."""
    if block is None:
        on_cpu = platform() == "cpu"
        fit = (_CPU_TILE if on_cpu else _DEVICE_TILE) // max(num_rows, 1)
        block = min(max(fit, 256 if on_cpu else 1024), 8192)
        # As even as 128s allow: what does not fill a chunk is compiled apart.
        block = -(-vocab // -(-vocab // block))
        block = -(-block // 128) * 128
    return min(block, vocab)


def _over_chunks(step, carry, unembed: Array, block: int):
    """``carry = step(carry, start, chunk [C, D])`` over equal chunks in a loop, then the rest."""
    full, rest = divmod(unembed.shape[0], block)

    def body(i, carry):
        return step(carry, i * block, lax.dynamic_slice_in_dim(unembed, i * block, block))

    carry = body(0, carry) if full == 1 else lax.fori_loop(0, full, body, carry)
    return step(carry, full * block, unembed[full * block :]) if rest else carry


def _logits(
    product: Array, temperature: Array | None, softcap: Array | None
) -> tuple[Array, Array | None]:
    """Logits from the product of states and unembedding, and their derivative by it (None: 1)."""
    slope = None
    if softcap is not None:
        bend = jnp.tanh(product / softcap.astype(product.dtype))
        product = softcap.astype(product.dtype) * bend
        slope = 1 - bend * bend
    if temperature is not None:
        factor = 1 / temperature.astype(product.dtype)
        product = product * factor
        slope = factor if slope is None else slope * factor
    return product, slope


def _local_tokens(tokens: Array, vocab: int, axis: str | None) -> Array:
    """Token ids relative to this device's part of the vocabulary (outside: another's)."""
    shards = 1 if axis is None else lax.axis_size(axis)
    clipped = jnp.clip(tokens, 0, vocab * shards - 1)
    return clipped if axis is None else clipped - lax.axis_index(axis) * vocab


def forward(
    inputs: Inputs,
    block: int | None,
    axis: str | None,
    *,
    entropy: bool,
    top: bool,
    gathered: bool,
) -> tuple[Array, Array | None, Array | None, Array, Array | None]:
    """Values of this device's rows: logps, entropy and top [B,T], logsumexp and entropy [B,S].

    S are the rows of a sequence; entropies and top are None unless wanted.

    Args:
        inputs: local parts.
        block: vocabulary entries per chunk, or None for the rule.
        axis: mesh axis that divides the vocabulary, or None.
        entropy: whether it is wanted.
        top: whether it is wanted: 1 where no other token is likelier, else 0.
        gathered: the states are those of `scored` alone.
    """
    hidden, unembed, tokens, scored, temperature, softcap = inputs
    rows, taken = _rows(hidden, tokens, scored, gathered)
    taken = _local_tokens(taken, unembed.shape[0], axis)
    exact = jnp.promote_types(jnp.result_type(hidden, unembed), jnp.float32)
    operand = jnp.result_type(hidden, unembed)

    def step(stats: _Stats, start, chunk):
        # One chunk of logits: the only [N, C] tile that is alive, whatever the vocabulary.
        product = jnp.einsum(
            "nd,cd->nc", rows.astype(operand), chunk.astype(operand), preferred_element_type=exact
        )
        z, _ = _logits(product, temperature, softcap)
        # What was summed so far was relative to the old peak: exp(drop) brings it to the new one,
        # so that no exponent is ever positive.
        peak = jnp.maximum(stats.peak, z.max(axis=1))
        shifted = z - peak[:, None]
        e = jnp.exp(shifted)
        drop = stats.peak - peak
        decay = jnp.exp(drop)
        moment = stats.moment
        if moment is not None:
            # About the new peak: sum e (z - peak') = sum e (z - peak) + drop * sum e.
            moment = (moment + drop * stats.total) * decay + (e * shifted).sum(axis=1)
        # The taken token lies in exactly one chunk (on one device): elsewhere its logit stays.
        at = taken - start
        found = jnp.take_along_axis(z, jnp.clip(at, 0, z.shape[1] - 1)[:, None], axis=1)[:, 0]
        return _Stats(
            peak,
            stats.total * decay + e.sum(axis=1),
            moment,
            jnp.where((at >= 0) & (at < z.shape[1]), found, stats.taken),
        )

    # The lowest finite number, not -inf: the first drop * total is then 0, and no NaN.
    zeros = jnp.zeros(rows.shape[0], exact)
    lowest = jnp.full(rows.shape[0], jnp.finfo(exact).min, exact)
    stats = _over_chunks(
        step,
        _Stats(lowest, zeros, zeros if entropy else None, zeros),
        unembed,
        _block_size(*_sizes(rows, unembed), block),
    )
    if axis is not None:
        stats = _combine(stats, axis)
    log_total = jnp.log(stats.total)
    logps = stats.taken - stats.peak - log_total
    batch, length = tokens.shape
    # log p = z_taken - logsumexp; H = logsumexp - E[z], both relative to the peak, whose size
    # would otherwise eat their digits.
    lse = (stats.peak + log_total).reshape(batch, -1)
    logps = _columns(logps, scored, (batch, length))
    # The logit is one of those whose maximum was taken: equal means equal.
    is_top = (stats.taken >= stats.peak).astype(exact)
    first = _columns(is_top, scored, (batch, length)) if top else None
    if stats.moment is None:
        return logps, None, first, lse, None
    row_entropy = log_total - stats.moment / stats.total
    spread = _columns(row_entropy, scored, (batch, length))
    return logps, spread, first, lse, row_entropy.reshape(lse.shape)


def _sizes(rows: Array, unembed: Array) -> tuple[int, int]:
    return rows.shape[0], unembed.shape[0]


def _combine(stats: _Stats, axis: str) -> _Stats:
    """Statistics of the whole vocabulary from each device's part: four [N] reductions."""
    peak = lax.pmax(stats.peak, axis)
    drop = stats.peak - peak
    decay = jnp.exp(drop)
    moment = stats.moment
    if moment is not None:
        moment = (moment + drop * stats.total) * decay
    # Each device knows its part of the vocabulary only: parts are brought to one peak, then added.
    return _Stats(peak, *lax.psum((stats.total * decay, moment, stats.taken), axis))


def backward(
    saved: Saved,
    dlogps: Array | None,
    dentropy: Array | None,
    block: int | None,
    axis: str | None,
    *,
    gathered: bool,
):
    """Gradients of this device's rows and part of the vocabulary, summed chunk by chunk.

    With p = softmax(z): d logp / dz_v = [v taken] - p_v and d entropy / dz_v = -p_v (z_v -
    logsumexp + entropy). Everything is laid out ``[C, N]``: all three products then have their
    operands in the order that CPU kernels are fastest at.
    """
    rows, taken = _rows(saved.inputs.hidden, saved.inputs.tokens, saved.inputs.scored, gathered)
    taken = _local_tokens(taken, saved.inputs.unembed.shape[0], axis)
    operand = jnp.result_type(saved.inputs.hidden, saved.inputs.unembed)
    exact = saved.log_total.dtype
    by_logp = None if dlogps is None else _pick(dlogps, saved.inputs.scored).astype(exact)
    by_entropy = None if dentropy is None else _pick(dentropy, saved.inputs.scored).astype(exact)
    # A row without a cotangent must not reach a product, where 0 * NaN of its state is NaN.
    used = jnp.any(jnp.stack([g != 0 for g in (by_logp, by_entropy) if g is not None]), axis=0)
    rows = jnp.where(used[:, None], rows, 0).astype(operand)
    lse = jnp.where(used, saved.log_total.reshape(-1), 0)
    entropy = None
    if by_entropy is not None and saved.entropy is not None:
        entropy = jnp.where(used, saved.entropy.reshape(-1), 0)
    # Behind the barrier the transpose is made once, not again in every chunk.
    rows_t = lax.optimization_barrier(rows.T)

    def step(carry, start, chunk):
        drows_t, dunembed = carry
        chunk = chunk.astype(operand)
        product = jnp.einsum("cd,dn->cn", chunk, rows_t, preferred_element_type=exact)
        z, slope = _logits(product, saved.inputs.temperature, saved.inputs.softcap)
        # Recomputed rather than kept: the forward pass saved logsumexp and entropy, [N] numbers.
        logp = z - lse[None, :]
        prob = jnp.exp(logp)
        dz = jnp.zeros_like(z)
        if by_logp is not None:
            # d logp / dz_v = [v taken] - p_v
            hit = jnp.arange(chunk.shape[0], dtype=taken.dtype)[:, None] == (taken - start)[None, :]
            dz = (hit - prob) * by_logp[None, :]
        if by_entropy is not None and entropy is not None:
            # d H / dz_v = -p_v (log p_v + H)
            dz = dz - prob * (logp + entropy[None, :]) * by_entropy[None, :]
        # Through softcap and temperature, then to the operands' precision for the two products.
        dz = (dz if slope is None else dz * slope).astype(operand)
        chunk_t = lax.optimization_barrier(chunk.T)
        # Every chunk adds to the states' gradient and owns its part of the unembedding's.
        drows_t = drows_t + jnp.einsum("dc,cn->dn", chunk_t, dz, preferred_element_type=exact)
        part = jnp.einsum("cn,nd->cd", dz, rows, preferred_element_type=exact)
        return drows_t, lax.dynamic_update_slice_in_dim(
            dunembed, part.astype(dunembed.dtype), start, axis=0
        )

    carry = (
        jnp.zeros(rows_t.shape, exact),
        jnp.zeros(saved.inputs.unembed.shape, saved.inputs.unembed.dtype),
    )
    drows_t, dunembed = _over_chunks(
        step, carry, saved.inputs.unembed, _block_size(*_sizes(rows, saved.inputs.unembed), block)
    )
    batch, length, width = saved.inputs.hidden.shape
    dhidden = _return_rows(drows_t.T, saved.inputs.scored, gathered, (batch, length, width))
    return dhidden, dunembed
