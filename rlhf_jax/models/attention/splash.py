"""Splash attention: JAX's own Pallas kernels of flash attention for TPUs.

Scores live in the chip's fast memory, one block at a time, forward and backward; nothing of the
size ``[T, T]`` exists (Dao et al. 2022, arXiv 2205.14135). Blocks that the causal mask or the
window hides are not computed; those that only packed documents hide are.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    BlockSizes,
    CausalMask,
    LocalMask,
    MultiHeadMask,
    SegmentIds,
    make_splash_mha,
)
from jax.sharding import Mesh
from jaxtyping import Array

from rlhf_jax.models.attention.plain import Static
from rlhf_jax.models.attention.shards import on_shards, undivided
from rlhf_jax.models.documents import Documents

LANES = 128
"""Of a TPU's vector unit: rows must be a multiple of it."""
_BLOCKS = (512, 384, 256, 128)
"""Queries and keys of a block: the first that divides a row."""
_DTYPES = (jnp.dtype("float32"), jnp.dtype("bfloat16"))


def refusal(q: Array, k: Array, documents: Documents | None, mesh: Mesh | None) -> str | None:
    """Why the kernels cannot take these arrays; None: they can.

    Args:
      q: queries [B, T, N, H].
      k: keys [B, T, K, H].
      documents: of packed rows.
      mesh: that rows and heads are divided over.
    """
    length = q.shape[1]
    if length % LANES:
        return f"rows of {length} tokens are no multiple of {LANES}"
    if q.dtype not in _DTYPES:
        return f"it computes in bfloat16 and float32, not {q.dtype}"
    if documents is not None and documents.prefix_ids is not None:
        return "packed completions share a prompt (training.share_prompt)"
    return undivided(q, k, mesh)


def splash(
    q: Array,
    k: Array,
    v: Array,
    documents: Documents | None,
    static: Static,
    *,
    mesh: Mesh | None = None,
    interpret: bool = False,
) -> Array:
    """Attention by the kernels, each device on its own rows and heads.

    What the backward pass reads of the forward pass, output and log-sum-exp, both have the
    checkpoint name "attention".

    Args:
      q, k, v: as for `attention`; `refusal` says which.
      documents: of packed rows.
      static: what else scores depend on.
      mesh: rows over `data` and `fsdp`, heads over `tensor`; None: one device.
      interpret: run the kernels as plain operations, on any device; slow.
    """
    # The kernels know no scale: a bfloat16 query is rounded once more, as it would be anyway by a
    # kernel that scaled its input.
    scaled = (q.astype(jnp.float32) * static.scale).astype(q.dtype)
    arrays = [x.swapaxes(1, 2) for x in (scaled, k, v)]
    ids = [] if documents is None else [documents.ids]

    def local(q: Array, k: Array, v: Array, *ids: Array) -> Array:
        kernel = _kernel(q.shape[2], q.shape[1], static, interpret)

        def of_row(q: Array, k: Array, v: Array, *ids: Array) -> Array:
            return kernel(q, k, v, segment_ids=SegmentIds(*ids, *ids) if ids else None)

        return jax.vmap(of_row)(q, k, v, *ids)

    run = on_shards(local, mesh, *ids, heads_axis=1)
    return run(*arrays, *ids).swapaxes(1, 2)


def _kernel(length: int, heads: int, static: Static, interpret: bool) -> Callable[..., Array]:
    """The kernels for rows of one length: forward, and two backward."""
    shape = (length, length)
    block = next(size for size in _BLOCKS if length % size == 0)
    columns = length if static.columns is None else static.columns
    mask = LocalMask(shape, (columns - 1, 0), 0) if columns < length else CausalMask(shape)
    return make_splash_mha(
        MultiHeadMask([mask] * heads),
        block_sizes=BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=static.softcap,
        residual_checkpoint_name="attention",
        interpret=interpret,
    )
