"""The one function of attention, and which implementation it takes."""

import functools
import logging

from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from rlhf_jax.models.attention.blocked import blocked
from rlhf_jax.models.attention.cudnn import cudnn
from rlhf_jax.models.attention.cudnn import refusal as refusal_of_cudnn
from rlhf_jax.models.attention.plain import Static, dot_product, plain
from rlhf_jax.models.attention.splash import refusal as refusal_of_splash
from rlhf_jax.models.attention.splash import splash
from rlhf_jax.models.documents import Documents
from rlhf_jax.target import platform

IMPLEMENTATIONS = ("auto", "blocked", "splash", "cudnn", "dot_product", "xla")
_PLATFORMS = {"splash": "tpu", "cudnn": "gpu"}
"""Where an implementation runs that does not run everywhere."""
_KERNELS = {target: name for name, target in _PLATFORMS.items()}
"""Platform -> the implementation that "auto" takes there where it can."""

_log = logging.getLogger(__name__)


def attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    prefix_ids: Int[Array, "B T"] | None = None,
    positions: Int[Array, "B T"] | None = None,
    window: int | None = None,
    reach: int | None = None,
    softcap: float | None = None,
    scale: float,
    implementation: str = "auto",
    mesh: Mesh | None = None,
) -> Float[Array, "B T N H"]:
    """Scaled dot-product attention in which token t sees tokens s <= t.

        out[b, t, n] = sum_s softmax_s(cap(scale * q[b, t, n] . k[b, s, m])) v[b, s, m],
        m = n // (N/K)

    with ``cap(x) = softcap * tanh(x / softcap)`` when `softcap` is given. Softmax statistics are
    float32 (float64 stays). Rows are right-padded, so real tokens never see padding and no padding
    mask exists; outputs at padding are finite and mean nothing. Every token sees at least itself,
    so no softmax is empty.

    Implementations:

    * ``"blocked"``: blocks of queries that fit a CPU's cache, made again in the backward pass.
      Never holds ``[B, N, T, T]``.
    * ``"splash"``: Pallas kernels for TPUs, forward and backward; rows a multiple of 128 tokens,
      whose packed completions do not share prompts.
    * ``"cudnn"``: cuDNN's flash attention for NVIDIA GPUs (A100 and later), in bfloat16 or float16,
      heads of a multiple of 8 numbers up to 128 (256 on H100 and later). No softcap; packed rows
      hold a mask ``[B, T, T]``. Compiled for H100s, never run on a device by this library's tests.
    * ``"dot_product"``: `jax.nn.dot_product_attention` as the compiler likes it. No softcap.
    * ``"xla"``: plain products and softmax; the reference that the others are tested against.
    * ``"auto"``: "blocked" on CPU; "splash" on TPU and "cudnn" on GPU where they can; elsewhere
      "dot_product", or "xla" when there is a softcap, and the log says once why.

    Args:
        q: queries; gradients flow to q, k and v.
        k: keys; K divides N, and heads are never repeated in memory.
        v: values.
        segment_ids: number of the packed document each token belongs to; tokens attend within their
          document only, exactly.
        prefix_ids: number of a document before its own that each token sees too (a shared prompt);
          -1 for none. Needs `segment_ids` and `positions`.
        positions: of each token in its own sequence; a window counts in them.
        window: a token sees itself and ``window - 1`` tokens before it; None is unlimited.
        reach: columns from a token to the farthest one that it may see, itself included; "blocked"
          multiplies little of what lies beyond. None: the whole row.
        softcap: bound on the scores (Gemma 2), > 0.
        scale: factor on the scores, usually ``H ** -0.5``.
        implementation: one of the above.
        mesh: that rows and heads are divided over, for the kernels; None: one device.

    Returns:
        Array like `q`.

    Raises:
        ValueError: an unknown implementation, one asked for by name that cannot do this, heads that
          do not divide, a window or softcap <= 0.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"attention={implementation!r} is unknown; allowed: {', '.join(IMPLEMENTATIONS)}"
        )
    if q.shape[2] % k.shape[2]:
        raise ValueError(
            f"{q.shape[2]} query heads are not a multiple of {k.shape[2]} key/value heads; change "
            "num_kv_heads"
        )
    if window is not None and window < 1:
        raise ValueError(f"attention window {window} must be at least 1; pass None for no window")
    if softcap is not None and softcap <= 0:
        raise ValueError(f"attention softcap {softcap} must be positive; pass None for no softcap")
    if prefix_ids is not None and (segment_ids is None or positions is None):
        raise ValueError("prefix_ids needs segment_ids and positions: pass all three or none")
    documents = None
    if segment_ids is not None:
        documents = Documents(segment_ids, prefix_ids, None if prefix_ids is None else positions)
    # A prompt that is shared may lie far back and be near in positions: there the columns are
    # bounded by `reach` alone.
    bounds = [reach] if prefix_ids is not None else [reach, window]
    columns = min((bound for bound in bounds if bound is not None), default=None)
    static = Static(columns, window, softcap, scale)
    name = implementation
    if name == "auto":
        name = _choose(q, k, documents, static, mesh)
    elif reason := _refusal(name, q, k, documents, static, mesh):
        raise ValueError(f"attention={name!r} cannot do this: {reason}; use attention='auto'")
    if name == "blocked":
        return blocked(q, k, v, documents, static)
    if name == "splash":
        return splash(q, k, v, documents, static, mesh=mesh)
    if name == "cudnn":
        out = cudnn(q, k, v, documents, static, mesh=mesh)
    elif name == "xla":
        out = plain(q, k, v, documents, static)
    else:
        out = dot_product(q, k, v, documents, static)
    return checkpoint_name(out, "attention")


def _choose(
    q: Array, k: Array, documents: Documents | None, static: Static, mesh: Mesh | None
) -> str:
    """What "auto" means for these arrays."""
    target = platform()
    if target == "cpu":
        return "blocked"
    plain_form = "dot_product" if static.softcap is None else "xla"
    kernel = _KERNELS.get(target)
    if kernel is None:  # a platform of which nothing is known
        return plain_form
    reason = _refusal(kernel, q, k, documents, static, mesh)
    if reason is None:
        return kernel
    _tell(kernel, plain_form, reason)
    return plain_form


def _refusal(
    name: str,
    q: Array,
    k: Array,
    documents: Documents | None,
    static: Static,
    mesh: Mesh | None,
) -> str | None:
    """Why an implementation cannot take these arrays; None: it can."""
    needed = _PLATFORMS.get(name)
    if needed is not None and platform() != needed:
        return f"it runs on a {needed.upper()}, and this is a {platform().upper()}"
    if name == "splash":
        return refusal_of_splash(q, k, documents, mesh)
    if name == "cudnn":
        return refusal_of_cudnn(q, k, documents, static, mesh)
    if name == "dot_product" and static.softcap is not None:
        return f"it cannot apply softcap={static.softcap}"
    return None


@functools.cache  # a model is traced for many purposes: once is enough
def _tell(kernel: str, name: str, reason: str) -> None:
    _log.info(
        "attention=auto: %s, which holds all scores of a row, in place of %s: %s",
        *(name, kernel, reason),
    )
