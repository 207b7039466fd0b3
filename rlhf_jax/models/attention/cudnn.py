"""cuDNN's flash attention for NVIDIA GPUs, through `jax.nn.dot_product_attention`.

Scores live in the chip's fast memory, forward and backward (Dao et al. 2022, arXiv 2205.14135).
What `refusal` says is what JAX 0.10 and cuDNN 9 refuse; no GPU has run it for this library yet, the
GPU compiler alone has seen it.
"""

import importlib.util

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from rlhf_jax.models.attention.plain import Static, near
from rlhf_jax.models.attention.shards import on_shards, undivided
from rlhf_jax.models.documents import Documents, together
from rlhf_jax.target import is_at_hand

_DTYPES = (jnp.dtype("bfloat16"), jnp.dtype("float16"))
_OLDEST = 8.0
"""Compute capability of the first GPUs that the kernels are for (A100)."""
_WIDE_HEADS = 9.0
"""Of the first that take heads of up to 256 numbers (H100); others take 128."""


def refusal(
    q: Array, k: Array, documents: Documents | None, static: Static, mesh: Mesh | None
) -> str | None:
    """Why the kernels cannot take these arrays; None: they can.

    Args:
      q: queries [B, T, N, H].
      k: keys [B, T, K, H].
      documents: of packed rows.
      static: what else scores depend on.
      mesh: that rows and heads are divided over.
    """
    _, length, _, width = q.shape
    if static.softcap is not None:
        return f"it cannot apply softcap={static.softcap}"
    if q.dtype not in _DTYPES:
        return f"it computes in bfloat16 and float16, not {q.dtype} (model.compute_dtype)"
    widest, lacking = _gpu()
    if lacking is not None:
        return lacking
    if width % 8 or width > widest:
        return f"heads of {width} numbers are no multiple of 8 up to {widest}"
    if documents is not None and length % 2:
        return f"packed rows of {length} tokens are no multiple of 2"
    return undivided(q, k, mesh)


def cudnn(
    q: Array,
    k: Array,
    v: Array,
    documents: Documents | None,
    static: Static,
    *,
    mesh: Mesh | None = None,
) -> Array:
    """Attention by the kernels and nothing else, each device on its own rows and heads.

    Packed documents are a mask ``[B, 1, T, T]``, which is held; scores of all heads never are.

    Args:
      q, k, v: as for `attention`; `refusal` says which.
      documents: of packed rows.
      static: what else scores depend on.
      mesh: rows over `data` and `fsdp`, heads over `tensor`; None: one device.
    """

    def local(q: Array, k: Array, v: Array, documents: Documents | None) -> Array:
        mask = None
        window = None if static.columns is None else (static.columns - 1, 0)
        if documents is not None:
            # cuDNN takes a mask or a window, and only newer ones both: the mask says it all.
            at = jnp.arange(q.shape[1])
            seen = (
                together(documents, documents, static.window) & near(at, at, static.columns)[None]
            )
            mask = seen[:, None]
            window = None
        return jax.nn.dot_product_attention(
            q,
            k,
            v,
            mask=mask,
            scale=static.scale,
            is_causal=True,
            local_window_size=window,
            implementation="cudnn",
        )

    return on_shards(local, mesh, documents, heads_axis=2)(q, k, v, documents)


def _gpu() -> tuple[int, str | None]:
    """(widest heads that the GPU's kernels take, what is lacking to use them; None: nothing)."""
    if not is_at_hand():
        # JAX asks the device for wide heads, and there is none.
        return 128, None if _is_installed() else "nvidia-cudnn-cu12 is not installed"
    found = getattr(jax.local_devices()[0], "compute_capability", None)
    try:
        capability = float(found)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # an AMD GPU says "gfx942"
        return 0, "the device is no NVIDIA GPU"
    if capability < _OLDEST:
        return 0, f"it needs compute capability {_OLDEST} (A100), and this GPU has {capability}"
    return (256 if capability >= _WIDE_HEADS else 128), None


def _is_installed() -> bool:
    """Whether cuDNN's library is there to compile with; JAX on a GPU does not begin without."""
    try:
        return importlib.util.find_spec("nvidia.cudnn") is not None
    except ModuleNotFoundError:
        return False
