"""The layers of the decoder as Flax NNX modules.

Modules are only ever built abstractly (`nnx.eval_shape`) and merged with a plain dict of arrays
inside a traced function, so they say shapes and maths, not values: initial values are in `adapter`.
Kernels are cast to the dtype of their input at use; norms and RoPE are computed in float32 (float64
stays).
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from rlhf_jax.models.config import ModelConfig
from rlhf_jax.models.rope import apply_rope

Rope: TypeAlias = tuple[Array, Array] | None
"""Cosine and sine of `rope_tables`; None: learned positions."""

AttentionFn: TypeAlias = Callable[[Array, Array, Array], tuple[Array, Any]]
"""How queries [B, T, N, H] read keys and values [B, T, K, H]: (q, k, v) -> (result like q, what to
keep of k and v)."""

_ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


class Linear(nnx.Module):
    """A matrix product over trailing axes `inputs`, giving axes `outputs`, as one large GEMM."""

    def __init__(self, inputs: tuple[int, ...], outputs: tuple[int, ...], *, bias: bool) -> None:
        self.kernel = nnx.Param(jnp.zeros(inputs + outputs))
        if bias:
            self.bias = nnx.Param(jnp.zeros(outputs))
        self.inputs = inputs
        self.outputs = outputs
        self.has_bias = bias

    def __call__(self, x: Array) -> Array:
        # Rows are flattened: XLA on CPU transposes its way through the weight gradient of a
        # three-dimensional product.
        lead = x.shape[: x.ndim - len(self.inputs)]
        kernel = (
            self.kernel[...]
            .astype(x.dtype)
            .reshape(math.prod(self.inputs), math.prod(self.outputs))
        )
        y = x.reshape(math.prod(lead), math.prod(self.inputs)) @ kernel
        y = checkpoint_name(y, "product")
        if self.has_bias:
            y = y + self.bias[...].astype(x.dtype).reshape(1, -1)
        return y.reshape(*lead, *self.outputs)


class Norm(nnx.Module):
    """RMS norm (arXiv 1910.07467) or layer norm (1607.06450) over the last axis, in float32."""

    def __init__(self, size: int, *, kind: str, eps: float) -> None:
        self.scale = nnx.Param(jnp.zeros((size,)))
        if kind == "layer":
            self.bias = nnx.Param(jnp.zeros((size,)))
        self.kind = kind
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        scale = _broadcast(self.scale[...].astype(wide.dtype), x.ndim)
        if self.kind == "layer":
            wide = wide - wide.mean(-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.eps)
        if self.kind == "rms_plus_one":
            scale = 1.0 + scale
        y = normed * scale
        if self.kind == "layer":
            y = y + _broadcast(self.bias[...].astype(wide.dtype), x.ndim)
        return y.astype(x.dtype)


class Attention(nnx.Module):
    """Causal self-attention with grouped key/value heads."""

    def __init__(self, config: ModelConfig) -> None:
        width = config.hidden_size
        heads = config.num_heads
        kv_heads = config.num_kv_heads
        dim = config.head_dim
        self.q = Linear((width,), (heads, dim), bias=config.qkv_bias)
        self.k = Linear((width,), (kv_heads, dim), bias=config.qkv_bias)
        self.v = Linear((width,), (kv_heads, dim), bias=config.qkv_bias)
        self.o = Linear((heads, dim), (width,), bias=config.o_bias)
        if config.qk_norm:
            self.q_norm = Norm(dim, kind=config.norm, eps=config.norm_eps)
            self.k_norm = Norm(dim, kind=config.norm, eps=config.norm_eps)
        self.config = config

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        rope: Rope,
        attend: AttentionFn,
        columns: Int[Array, "B S"] | None = None,
    ) -> tuple[Float[Array, "B W D"], Any]:
        q = self.q(x)
        k = self.k(x)
        v = self.v(x)
        if self.config.qk_norm:
            q = self.q_norm(q)
            k = self.k_norm(k)
        if rope is not None:
            q = apply_rope(q, rope)
            k = apply_rope(k, rope)
        mixed, kept = attend(q, k, v)
        return self.o(at_columns(mixed, columns)), kept


class Mlp(nnx.Module):
    """Two or three matrix products around an activation."""

    def __init__(self, config: ModelConfig) -> None:
        width = (config.hidden_size,)
        inner = (config.intermediate_size,)
        if config.gated_mlp:
            self.gate = Linear(width, inner, bias=config.mlp_bias)
        self.up = Linear(width, inner, bias=config.mlp_bias)
        self.down = Linear(inner, width, bias=config.mlp_bias)
        self.gated = config.gated_mlp
        self.activation = config.activation

    def __call__(self, x: Array) -> Array:
        act = _ACTIVATIONS[self.activation]
        inner = act(self.gate(x)) * self.up(x) if self.gated else act(self.up(x))
        return self.down(inner)


class Block(nnx.Module):
    """One decoder layer: attention and MLP, each with a norm before and, in Gemma, one after.

    With `columns` it returns the states of those alone (W = S, else T): all are seen, and only what
    is asked for is computed behind attention.
    """

    def __init__(self, config: ModelConfig) -> None:
        def norm() -> Norm:
            return Norm(config.hidden_size, kind=config.norm, eps=config.norm_eps)

        self.attn_norm = norm()
        self.mlp_norm = norm()
        self.attn = Attention(config)
        self.mlp = Mlp(config)
        if config.post_norms:
            self.attn_post_norm = norm()
            self.mlp_post_norm = norm()
        self.post_norms = config.post_norms

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        rope: Rope,
        attend: AttentionFn,
        columns: Int[Array, "B S"] | None = None,
    ) -> tuple[Float[Array, "B W D"], Any]:
        mixed, kept = self.attn(self.attn_norm(x), rope=rope, attend=attend, columns=columns)
        x = at_columns(x, columns)
        x = x + (self.attn_post_norm(mixed) if self.post_norms else mixed)
        inner = self.mlp(self.mlp_norm(x))
        return x + (self.mlp_post_norm(inner) if self.post_norms else inner), kept


class Embed(nnx.Module):
    """Rows looked up by an integer."""

    def __init__(self, rows: int, width: int) -> None:
        self.embedding = nnx.Param(jnp.zeros((rows, width)))


class Unembedding(nnx.Module):
    """The matrix [V, D] whose rows are compared with the hidden state."""

    def __init__(self, vocab: int, width: int) -> None:
        self.kernel = nnx.Param(jnp.zeros((vocab, width)))


class ScalarHead(nnx.Module):
    """A reward or value read from the hidden state, in float32."""

    def __init__(self, width: int) -> None:
        self.kernel = nnx.Param(jnp.zeros((width,)))

    def __call__(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T"]:
        wide = jnp.promote_types(hidden.dtype, jnp.float32)
        return hidden.astype(wide) @ self.kernel[...].astype(wide)


class EmbeddingAndHead(nnx.Module):
    """All that is not a layer: embeddings, final norm and heads."""

    def __init__(self, config: ModelConfig, *, scalar_head: bool) -> None:
        self.embed = Embed(config.vocab_size, config.hidden_size)
        if config.rope is None:
            self.position = Embed(config.max_position, config.hidden_size)
        self.final_norm = Norm(config.hidden_size, kind=config.norm, eps=config.norm_eps)
        if config.lm_head and not config.tie_embeddings:
            self.unembed = Unembedding(config.vocab_size, config.hidden_size)
        if scalar_head:
            self.score = ScalarHead(config.hidden_size)


def at_columns(x: Float[Array, "B T *R"], columns: Int[Array, "B S"] | None) -> Array:
    """Some columns of each row.

    Args:
      x: [B, T, ...]. Gradients flow.
      columns: in [0, T); None: all as they are.

    Returns:
      [B, S, ...].
    """
    return x if columns is None else jax.vmap(lambda row, at: row[at])(x, columns)


def _broadcast(vector: Array, ndim: int) -> Array:
    return vector.reshape((1,) * (ndim - 1) + (-1,))
