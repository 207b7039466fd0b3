"""The decoder's forward pass: layers scanned or unrolled, activations checkpointed by policy.

`make_hidden` is the forward pass: embed, layers, final norm. `_run_layers` decides how the layers
run: one after another, or as scans over the periods that `layer_plan` finds. The parts that
decoding shares (`embed`, `make_ropes`, `unstack`, ...) stand beside them.
"""

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from rlhf_jax.models.attention import IMPLEMENTATIONS, attention
from rlhf_jax.models.config import ModelConfig
from rlhf_jax.models.documents import document_positions
from rlhf_jax.models.embedding import lookup
from rlhf_jax.models.modules import AttentionFn, EmbeddingAndHead, Rope, at_columns
from rlhf_jax.models.remat import POLICIES, REMAT, choose
from rlhf_jax.models.rope import rope_tables
from rlhf_jax.sharding import constrain
from rlhf_jax.target import platform
from rlhf_jax.types import EMPTY, Params

_log = logging.getLogger(__name__)
Shared: TypeAlias = tuple[Mapping[str, Rope], dict[str, Array | None]]
"""What all layers read: cosines and sines by kind of layer, and the documents of packed rows by
argument of `attention`."""

LAYERS = ("auto", "scan", "unroll")
_MOST_DECODED = 64
"""Layers that are unrolled where one token is read at a time: compiling grows with them."""

RESIDUAL = ("batch", "seq", "embed")
"""Logical axes of the residual stream."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How the maths is run; none of it but `context` changes the results beyond rounding.

    Attributes:
      mesh: device mesh; None outside one.
      compute_dtype: dtype of activations and of kernels at use; None: the dtype of the parameters.
      remat: a key of `remat.POLICIES`, or "auto", see `remat.choose`.
      layers: "scan" (compile time does not grow with depth), "unroll" (faster when shallow) or
        "auto": unroll up to 8 layers, on a CPU up to 16.
      attention: implementation, see `rlhf_jax.models.attention`.
      context: longest row in tokens that rotary scalings are set for, see `rlhf_jax.models.rope`;
        None: the model's longest position. Unlike the others it is part of the maths where a
        scaling depends on a length.
    """

    mesh: Mesh | None = None
    compute_dtype: str | None = None
    remat: str = "auto"
    layers: str = "auto"
    attention: str = "auto"
    context: int | None = None

    def __post_init__(self) -> None:
        allowed = {
            "remat": REMAT,
            "layers": LAYERS,
            "attention": IMPLEMENTATIONS,
            "compute_dtype": (None, "float32", "bfloat16", "float16", "float64"),
        }
        for name, values in allowed.items():
            if self.__dict__[name] not in values:
                listed = ", ".join(str(value) for value in values)
                raise ValueError(f"{name}={self.__dict__[name]!r} is unknown; allowed: {listed}")
        if self.context is not None and self.context < 1:
            raise ValueError(
                f"context={self.context} must be at least 1 token, or None for the model's longest "
                "position"
            )

    def unrolled(self, num_layers: int) -> bool:
        """Whether `num_layers` layers are unrolled."""
        if self.layers == "auto":
            return num_layers <= (16 if platform() == "cpu" else 8)
        return self.layers == "unroll"

    def decodes_unrolled(self, num_layers: int) -> bool:
        """Whether they are where one token is read at a time.

        On CPU a loop copies a layer's weights before it reads them, which takes as long as the
        products of 64 rows, and many times those of one.
        """
        if self.layers == "auto" and platform() == "cpu":
            return num_layers <= _MOST_DECODED
        return self.unrolled(num_layers)


def make_hidden(
    config: ModelConfig, execution: Execution, outer_graph: nnx.GraphDef, block: nnx.GraphDef
) -> Callable[..., Float[Array, "B T D"]]:
    """Builds ``hidden(params, tokens, mask, *, columns=None, segment_ids=None, longest=None,
    reach=None, prefix_ids=None, positions=None)``, the state after the final norm: of all tokens,
    or with `columns` [B, S] of those of each row, [B, S, D].

    Args:
      config: the architecture.
      execution: how to run it.
      outer_graph: graph of `EmbeddingAndHead`.
      block: graph of one `Block`.

    Returns:
      The function. It reads no mask: rows are right-padded and attention is causal, so no token
        sees padding after it.
    """

    def hidden(
        params: Params,
        tokens: Int[Array, "B T"],
        mask: Array,
        *,
        columns: Int[Array, "B S"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        longest: int | None = None,
        reach: int | None = None,
        prefix_ids: Int[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B W D"]:
        del mask
        outer = merge_outer(outer_graph, params)
        width = tokens.shape[1]
        longest = width if longest is None else min(longest, width)
        check_positions(config, execution, longest)
        if positions is None:
            positions = _positions(tokens, segment_ids)
        arrays = {"segment_ids": segment_ids, "prefix_ids": prefix_ids, "positions": positions}
        documents = {} if segment_ids is None else arrays
        x = embed(config, execution, outer, tokens, positions)
        ropes = make_ropes(config, execution, positions)

        def layer(
            kind: str, layer_params: Params, x: Array, shared: Shared, columns: Array | None
        ) -> Array:
            ropes, documents = shared
            x = constrain(x, execution.mesh, RESIDUAL)
            attend = full_attention(config, execution, kind, documents=documents, reach=reach)
            x, _ = nnx.merge(block, layer_params)(
                x, rope=ropes.get(kind, ropes.get("full")), attend=attend, columns=columns
            )
            return constrain(x, execution.mesh, RESIDUAL)

        shared = (ropes, documents)
        x = _run_layers(config, execution, layer, params["layers"], x, shared, columns)
        return constrain(outer.final_norm(x), execution.mesh, RESIDUAL)

    return hidden


def merge_outer(outer_graph: nnx.GraphDef, params: Params) -> EmbeddingAndHead:
    """The `EmbeddingAndHead` of a tree of parameters."""
    return nnx.merge(outer_graph, {name: tree for name, tree in params.items() if name != "layers"})


def make_ropes(
    config: ModelConfig, execution: Execution, positions: Int[Array, "B T"]
) -> dict[str, tuple[Array, Array]]:
    """Kind of layer -> cosine and sine; absent kinds use "full". Empty with learned positions.

    Args:
      config: the architecture.
      execution: how to run it: the context.
      positions: position of every token.
    """
    kinds = {"full": config.rope, "sliding": config.local_rope}
    context = execution.context
    return {
        kind: rope_tables(rope, config.head_dim, positions, context=context)
        for kind, rope in kinds.items()
        if rope is not None
    }


def full_attention(
    config: ModelConfig,
    execution: Execution,
    kind: str,
    *,
    documents: Mapping[str, Any] = EMPTY,
    reach: int | None = None,
) -> AttentionFn:
    """Every token of a row sees those before it; keys and values are kept as they are.

    Args:
      config: the architecture.
      execution: names the implementation.
      kind: of layer, "full" or "sliding".
      documents: of packed rows, by argument of `attention`.
      reach: columns that any token looks back at most.
    """

    def attend(q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, Array]]:
        mixed = attention(
            q,
            k,
            v,
            **documents,
            window=config.sliding_window if kind == "sliding" else None,
            reach=None if reach is None or reach >= q.shape[1] else reach,
            softcap=config.attention_softcap,
            scale=config.attention_scale,
            implementation=execution.attention,
            mesh=execution.mesh,
        )
        return mixed, (k, v)

    return attend


def check_positions(config: ModelConfig, execution: Execution, width: int) -> None:
    """Looks at the width of traced rows: refuses more than a model's learned positions.

    Rotary positions have no end, but a scaling that depends on the context is wrong beyond it: that
    is said in the log.
    """
    if config.rope is None:
        if width > config.max_position:
            raise ValueError(
                f"rows of {width} tokens exceed the model's {config.max_position} learned "
                "positions; shorten the rows"
            )
        return
    context = config.max_position if execution.context is None else execution.context
    for rope in (config.rope, config.local_rope):
        if (
            rope is not None
            and rope.original_length is not None
            and width > max(context, rope.original_length)
        ):
            _warn_beyond(rope.kind, width, context)


@functools.cache  # a model is traced for many shapes and purposes: once is enough
def _warn_beyond(kind: str, width: int, context: int) -> None:
    _log.warning(
        "rows of %d tokens: the %s rotary scaling is set for rows up to %d; make the model with "
        "context=%d",
        *(width, kind, context, width),
    )


def _positions(tokens: Array, segment_ids: Array | None) -> Int[Array, "B T"]:
    if segment_ids is not None:
        return document_positions(segment_ids)
    return jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]


def embed(
    config: ModelConfig,
    execution: Execution,
    outer: EmbeddingAndHead,
    tokens: Array,
    positions: Array,
) -> Float[Array, "B T D"]:
    """The residual stream before the first layer.

    Args:
      config: the architecture.
      execution: how to run it.
      outer: the `EmbeddingAndHead`.
      tokens: [B, T].
      positions: [B, T] or [1, T]; read with learned positions only.
    """
    x = lookup(outer.embed.embedding[...], tokens, execution.mesh, execution.compute_dtype)
    if config.scale_embeddings:
        x = x * jnp.asarray(config.hidden_size**0.5, x.dtype)
    if config.rope is None:
        position = jnp.take(outer.position.embedding[...], positions, axis=0, mode="clip").astype(
            x.dtype
        )
        x = x + jnp.broadcast_to(position, x.shape)
    return constrain(x, execution.mesh, RESIDUAL)


def _run_layers(
    config: ModelConfig,
    execution: Execution,
    layer: Callable[..., Array],
    params: Params,
    x: Array,
    shared: Shared,
    columns: Array | None,
) -> Array:
    unrolled = execution.unrolled(config.num_layers)
    remat = execution.remat
    if remat == "auto":
        rows, width = x.shape[:2]
        remat = choose(
            config, (rows, width), x.dtype.itemsize, mesh=execution.mesh, unrolled=unrolled
        )

    def checkpointed(kind: str, in_scan: bool) -> Callable[..., Array]:
        def run(
            layer_params: Params, x: Array, shared: Shared, columns: Array | None = None
        ) -> Array:
            return layer(kind, layer_params, x, shared, columns)

        if remat == "none":
            return run
        return jax.checkpoint(run, policy=POLICIES[remat], prevent_cse=not in_scan)

    def in_order(kinds: tuple[str, ...], layers: list[Params], x: Array, in_scan: bool) -> Array:
        runs = {kind: checkpointed(kind, in_scan) for kind in dict.fromkeys(kinds)}
        for kind, layer_params in zip(kinds, layers, strict=True):
            x = runs[kind](layer_params, x, shared)
        return x

    if unrolled:
        *before, last = unstack(params, config.num_layers)
        *kinds_before, kind = config.layer_types
        x = in_order(tuple(kinds_before), before, x, False)
        # Behind the last layer's attention nothing looks at other columns: what nobody reads of
        # them is not computed. Layers of a scan are all of one shape.
        return checkpointed(kind, False)(last, x, shared, columns)
    for start, kinds, repeats in layer_plan(config.layer_types):
        count = len(kinds) * repeats
        part = slice_layers(params, start, count, config.num_layers)
        if repeats == 1:
            x = in_order(kinds, unstack(part, len(kinds)), x, False)
            continue

        def body(x: Array, group: Params, kinds: tuple[str, ...] = kinds) -> tuple[Array, None]:
            # A single layer is read as it is stored: for the backward pass a scan keeps nothing of
            # its own inputs, but a copy of all that is made of them, if only another shape.
            layers = [group] if len(kinds) == 1 else unstack(group, len(kinds))
            return in_order(kinds, layers, x, True), None

        grouped = part if len(kinds) == 1 else by_period(part, repeats, len(kinds))
        x, _ = jax.lax.scan(body, x, grouped)
    return at_columns(x, columns)


def slice_layers(params: Params, start: int, count: int, total: int) -> Params:
    """Layers start..start + count of stacked parameters; all of them as they are."""
    if count == total:
        return params
    return jax.tree.map(lambda p: p[start : start + count], params)


def by_period(tree: Any, repeats: int, period: int) -> Any:
    """Leaves [repeats * period, ...] as [repeats, period, ...], for a scan over the periods."""
    return jax.tree.map(lambda leaf: leaf.reshape(repeats, period, *leaf.shape[1:]), tree)


def unstack(params: Params, count: int) -> list[Params]:
    """Splits stacked parameters into a tree per layer; the gradient is one concatenation.

    Args:
      params: every leaf leads with the layer axis.
      count: its length.
    """
    if count == 1:
        return [jax.tree.map(lambda p: p.reshape(p.shape[1:]), params)]
    leaves, structure = jax.tree.flatten(params)
    columns = [
        [part.reshape(part.shape[1:]) for part in jax.lax.split(leaf, (1,) * count, axis=0)]
        for leaf in leaves
    ]
    return [jax.tree.unflatten(structure, list(row)) for row in zip(*columns, strict=True)]


def layer_plan(layer_types: tuple[str, ...]) -> list[tuple[int, tuple[str, ...], int]]:
    """Groups layers for scanning, so that the kind of every layer inside a scan's body is static.

    Args:
      layer_types: kind of every layer.

    Returns:
      Consecutive parts (first layer, kinds of one period, number of periods). A pattern that
      repeats (Gemma 3: five sliding, one full) is one scan over its periods and a rest; otherwise
      every run of equal layers is one scan.
    """
    total = len(layer_types)
    period = next(
        p
        for p in range(1, total + 1)
        if all(layer_types[i] == layer_types[i % p] for i in range(total))
    )
    if 2 * period <= total:
        whole = total // period * period
        rest = [(whole, layer_types[whole:], 1)] if whole < total else []
        return [(0, layer_types[:period], total // period), *rest]
    starts = [i for i in range(total) if i == 0 or layer_types[i] != layer_types[i - 1]]
    return [
        (a, layer_types[a : a + 1], b - a)
        for a, b in zip(starts, [*starts[1:], total], strict=True)
    ]
