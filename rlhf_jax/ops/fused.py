"""Log-probabilities and entropies of taken tokens from hidden states, without whole logits."""

import functools
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from rlhf_jax.ops.vocab_chunks import Inputs, Saved, backward, forward
from rlhf_jax.types import TokenStats

Scalar: TypeAlias = float | Float[Array, ""]

_ROW_AXES = ("data", "fsdp")
_VOCAB_AXIS = "tensor"


class _Static(NamedTuple):
    """What the compiled program depends on besides shapes."""

    mesh: Mesh | None
    block: int | None
    entropy: bool
    top: bool
    gathered: bool


def fused_token_logps(
    hidden: Float[Array, "B T D"],
    unembed: Float[Array, "V D"],
    tokens: Int[Array, "B T"],
    *,
    temperature: Scalar = 1.0,
    softcap: Scalar | None = None,
    scored: Int[Array, "B S"] | None = None,
    mesh: Mesh | None = None,
    block: int | None = None,
    entropy: bool = True,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"] | None]:
    """Log-probability of every token given its prefix, and the entropy of its distribution.

    With logits ``z = softcap * tanh(hidden @ unembed.T / softcap) / temperature`` (the tanh only
    when `softcap` is given),

        logps[b, t]   = z[b, t-1, tokens[b, t]] - logsumexp(z[b, t-1])
        entropy[b, t] = logsumexp(z[b, t-1]) - sum_v softmax(z[b, t-1])_v z[b, t-1, v]

    The vocabulary is walked in chunks with an online logsumexp (Milakov and Gimelshein, arXiv
    1805.02867, algorithm 3); the backward pass recomputes each chunk, so that temporary memory is a
    few ``[N, block]`` tiles instead of ``[N, V]``. A row whose cotangents are all zero contributes
    exactly nothing to any gradient, even if its hidden state is NaN. An unused entropy costs
    nothing, forward or backward.

    `block` is the number of vocabulary entries per chunk. By default a tile of N rows holds about
    4M logits on CPU (16 MB of float32: it stays in the last-level cache, and one allocation is
    reused), between 256 and 8192 columns; on GPU and TPU about 128M logits, between 1024 and 8192
    columns, where re-reading the ``[N, D]`` gradient accumulator costs about 2%.

    Args:
        hidden: states after the final norm; ``hidden[:, t-1]`` predicts ``tokens[:, t]``. float32,
            float64, bf16 or f16: products run in this precision with float32 (float64)
            accumulation, statistics in float32 (float64). Gradients flow.
        unembed: unembedding, one row per vocabulary entry. Gradients flow.
        tokens: taken tokens, in ``[0, V)``; ids outside (-100 at padding, say) are clipped; their
          rows are the caller's to mask.
        temperature: divides the logits, > 0; may be traced. No gradient.
        softcap: logits are bounded to (-softcap, softcap), applied before `temperature` (Gemma 2);
          may be traced. No gradient.
        scored: columns t of the *predicted* token to compute, in ``[1, T)``; -1 is filler. Other
            columns cost nothing and get 0. Columns of one row must be distinct. None computes all
            columns.
        mesh: mesh with axes 'data', 'fsdp' and 'tensor': rows are split over the first two, the
            vocabulary over 'tensor'; B and V must divide. No collective holds a [., V] array. None
            leaves placement to the compiler.
        block: vocabulary entries per chunk; None chooses by the rule above.
        entropy: False computes none, for programs that would otherwise return it to nobody.

    Returns:
        logps: nats, float32 (float64 for float64 inputs); column 0 is 0.
        entropy: nats, same; None with ``entropy=False``.

    Raises:
        ValueError: shapes disagree, or B or V does not divide over `mesh`.

    Example:
        >>> import jax.numpy as jnp
        >>> hidden, unembed = jnp.zeros((1, 3, 2)), jnp.zeros((4, 2))
        >>> logps, entropy = fused_token_logps(hidden, unembed, jnp.array([[3, 1, 2]]))
        >>> [round(float(x), 4) for x in logps[0]]
        [0.0, -1.3863, -1.3863]
        >>> [round(float(x), 4) for x in entropy[0]]
        [0.0, 1.3863, 1.3863]
    """
    _check(hidden, unembed, tokens, scored, mesh)
    static = _Static(_divided(mesh), block, entropy, top=False, gathered=False)
    return _fused(hidden, unembed, tokens, scored, _scale(temperature), _scalar(softcap), static)[
        :2
    ]


def fused_token_stats(
    hidden: Float[Array, "B W D"],
    unembed: Float[Array, "V D"],
    tokens: Int[Array, "B T"],
    *,
    temperature: Scalar = 1.0,
    softcap: Scalar | None = None,
    scored: Int[Array, "B S"] | None = None,
    mesh: Mesh | None = None,
    block: int | None = None,
    entropy: bool = True,
    top: bool = False,
    gathered: bool = False,
) -> TokenStats:
    """`fused_token_logps`, and whether each token is the likeliest.

    Args:
        hidden: as there, W = T; with `gathered` W = S.
        unembed, tokens, temperature, softcap, scored, mesh, block, entropy: as there.
        top: whether it is wanted; a comparison with the largest logit, which is known anyway.
        gathered: ``hidden[:, s]`` is the state that predicts column ``scored[:, s]``, and there are
            no others.

    Returns:
        `types.TokenStats`; `top` has no gradient, and column 0 is 0.
    """
    if gathered and scored is None:
        raise ValueError("gathered=True needs scored: the columns that the states predict")
    _check(hidden, unembed, tokens if scored is None or not gathered else scored, scored, mesh)
    static = _Static(_divided(mesh), block, entropy, top, gathered)
    logps, spread, first = _fused(
        hidden, unembed, tokens, scored, _scale(temperature), _scalar(softcap), static
    )
    return TokenStats(logps, spread, None if first is None else lax.stop_gradient(first))


def _divided(mesh: Mesh | None) -> Mesh | None:
    return None if mesh is None or mesh.size == 1 else mesh


def _scalar(value: Scalar | None) -> Array | None:
    """Without a gradient; None: left out."""
    return None if value is None else lax.stop_gradient(jnp.asarray(value))


def _scale(temperature: Scalar) -> Array | None:
    """None for a temperature that changes nothing."""
    is_one = isinstance(temperature, int | float) and temperature == 1
    return _scalar(None if is_one else temperature)


def _check(
    hidden: Array, unembed: Array, tokens: Array, scored: Array | None, mesh: Mesh | None
) -> None:
    if (
        hidden.ndim != 3
        or unembed.ndim != 2
        or hidden.shape[2] != unembed.shape[1]
        or tokens.shape != hidden.shape[:2]
    ):
        raise ValueError(
            f"shapes disagree: hidden {hidden.shape}, unembed {unembed.shape}, tokens "
            f"{tokens.shape}; pass [B,T,D], [V,D], [B,T]"
        )
    if scored is not None and (scored.ndim != 2 or scored.shape[0] != tokens.shape[0]):
        raise ValueError(f"scored has shape {scored.shape}; pass [{tokens.shape[0]}, S] columns")
    if mesh is not None:
        rows = mesh.shape[_ROW_AXES[0]] * mesh.shape[_ROW_AXES[1]]
        vocab = mesh.shape[_VOCAB_AXIS]
        if tokens.shape[0] % rows:
            raise ValueError(
                f"batch of {tokens.shape[0]} rows does not divide over data x fsdp = {rows}; "
                "change the batch size"
            )
        if unembed.shape[0] % vocab:
            raise ValueError(
                f"vocabulary of {unembed.shape[0]} does not divide over tensor = {vocab}; change "
                "the mesh"
            )


def _fused_primal(hidden, unembed, tokens, scored, temperature, softcap, static):
    return _run_forward(Inputs(hidden, unembed, tokens, scored, temperature, softcap), static)[:3]


_fused = jax.custom_vjp(_fused_primal, nondiff_argnums=(6,))


def _fused_fwd(hidden, unembed, tokens, scored, temperature, softcap, static):
    primals = Inputs(hidden, unembed, tokens, scored, temperature, softcap)
    inputs = jax.tree.map(lambda p: p.value, primals, is_leaf=_is_primal)
    *values, log_total, row_entropy = _run_forward(inputs, static)
    return tuple(values), Saved(inputs, log_total, row_entropy)


def _is_primal(x: object) -> bool:
    return isinstance(x, jax.custom_derivatives.CustomVJPPrimal)


def _fused_bwd(static, saved, cotangents):
    # What is only told has no gradient.
    dlogps, dentropy = (None if isinstance(c, SymbolicZero) else c for c in cotangents[:2])
    if dlogps is None and dentropy is None:
        dlogps = jnp.zeros(saved.inputs.tokens.shape, saved.log_total.dtype)
    rows = P(_ROW_AXES)
    scatter = False
    if static.mesh is not None:
        scatter = (
            saved.inputs.unembed.shape[0]
            % (static.mesh.shape[_VOCAB_AXIS] * static.mesh.shape[_ROW_AXES[1]])
            == 0
        )

    def local(saved, dlogps, dentropy, axis=None):
        dhidden, dunembed = backward(
            saved, dlogps, dentropy, static.block, axis, gathered=static.gathered
        )
        if axis is not None:
            dhidden = lax.psum(dhidden, _VOCAB_AXIS)
            dunembed = _sum_over_rows(dunembed, scatter)
        return dhidden.astype(saved.inputs.hidden.dtype), dunembed.astype(
            saved.inputs.unembed.dtype
        )

    if static.mesh is None:
        dhidden, dunembed = local(saved, dlogps, dentropy)
    else:
        specs: Any = (rows, P(_VOCAB_AXIS), rows, rows, P(), P())
        rest: Any = (rows, rows)
        dhidden, dunembed = jax.shard_map(
            lambda saved, dlogps, dentropy: local(saved, dlogps, dentropy, _VOCAB_AXIS),
            mesh=static.mesh,
            in_specs=(Saved(Inputs(*specs), *rest), rows, rows),
            out_specs=(rows, P((_VOCAB_AXIS, _ROW_AXES[1]) if scatter else _VOCAB_AXIS)),
            check_vma=False,
        )(saved, dlogps, dentropy)
    return dhidden, dunembed, None, None, None, None


_fused.defvjp(_fused_fwd, _fused_bwd, symbolic_zeros=True)


def _sum_over_rows(dunembed: Array, scatter: bool) -> Array:
    """Sum over devices that hold other rows; with `scatter` each keeps its part by 'fsdp'."""
    if not scatter:
        return lax.psum(dunembed, _ROW_AXES)
    return lax.psum(
        lax.psum_scatter(dunembed, _ROW_AXES[1], scatter_dimension=0, tiled=True), _ROW_AXES[0]
    )


def _run_forward(
    inputs: Inputs, static: _Static
) -> tuple[Array, Array | None, Array | None, Array, Array | None]:
    """`forward` on one device or over the mesh."""
    run = functools.partial(
        forward,
        block=static.block,
        entropy=static.entropy,
        top=static.top,
        gathered=static.gathered,
    )
    if static.mesh is None:
        return run(inputs, axis=None)
    rows = P(_ROW_AXES)
    specs: Any = (rows, P(_VOCAB_AXIS), rows, rows, P(), P())
    return jax.shard_map(
        functools.partial(run, axis=_VOCAB_AXIS),
        mesh=static.mesh,
        in_specs=(Inputs(*specs),),
        out_specs=rows,
        check_vma=False,
    )(inputs)
