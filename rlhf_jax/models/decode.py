"""Reading prompts once, and then one token at a time, with the same layers as the forward pass.

`make_prefill` and `make_decode` build the two functions. They differ from the forward pass
(`transformer`) only in what attention does with keys and values: prefill keeps them, decoding
writes the token's own into a ring and reads both the prompt's and the ring's. `_visible` says which
of them each row sees.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int

from rlhf_jax.models.cache import KVCache, Segment, joint_attention, read, write
from rlhf_jax.models.config import ModelConfig
from rlhf_jax.models.modules import AttentionFn, EmbeddingAndHead, Rope
from rlhf_jax.models.transformer import (
    RESIDUAL,
    Execution,
    by_period,
    check_positions,
    embed,
    full_attention,
    layer_plan,
    make_ropes,
    merge_outer,
    slice_layers,
    unstack,
)
from rlhf_jax.sharding import constrain
from rlhf_jax.target import platform
from rlhf_jax.types import Params

Part = tuple[int, tuple[str, ...], int]
"""(first layer, kinds of one period, number of periods): layers of one leaf of the cache."""

Unembed = Callable[[Params, Array], Array]
"""(params, state [B, T, D]) -> logits [B, T, V]."""


class _Parts(NamedTuple):
    """What both functions below are made of."""

    config: ModelConfig
    execution: Execution
    outer_graph: nnx.GraphDef
    block: nnx.GraphDef
    unembed: Unembed

    def plan(self) -> list[Part]:
        kinds = self.config.layer_types
        if self.execution.decodes_unrolled(self.config.num_layers):
            return [(layer, (kind,), 1) for layer, kind in enumerate(kinds)]
        return layer_plan(kinds)

    def run_layer(
        self, kind: str, params: Params, x: Array, ropes: Mapping[str, Rope], attend: AttentionFn
    ) -> tuple[Array, Any]:
        x = constrain(x, self.execution.mesh, RESIDUAL)
        return nnx.merge(self.block, params)(
            x, rope=ropes.get(kind, ropes.get("full")), attend=attend
        )

    def logits(
        self, params: Params, outer: EmbeddingAndHead, x: Float[Array, "B 1 D"]
    ) -> Float[Array, "B V"]:
        mesh = self.execution.mesh
        state = constrain(outer.final_norm(x), mesh, RESIDUAL)
        logits = self.unembed(params, state)[:, 0]
        # Each device of `tensor` has the logits of a part of the vocabulary for all rows of its
        # shard. They are exchanged so that it has whole rows, a part of them: what is drawn of a
        # row is then what one device draws, to the bit, and 1 / tensor of the bytes move and of the
        # work is done, against whole rows everywhere.
        divides = mesh is not None and len(logits) % mesh.size == 0
        return constrain(logits, mesh, ("draws" if divides else "batch", None))


def make_prefill(
    config: ModelConfig,
    execution: Execution,
    outer_graph: nnx.GraphDef,
    block: nnx.GraphDef,
    unembed: Unembed,
) -> Callable[..., tuple[Array, KVCache]]:
    """Builds ``prefill(params, tokens[P, T], lengths[P], *, row_length)``.

    Args:
      config: the architecture.
      execution: how to run it.
      outer_graph: graph of `EmbeddingAndHead`.
      block: graph of one `Block`.
      unembed: from states to logits.

    Returns:
      The function; see `rlhf_jax.types.Model.prefill`.
    """
    parts = _Parts(config, execution, outer_graph, block, unembed)

    def prefill(
        params: Params, tokens: Int[Array, "P T"], lengths: Int[Array, " P"], *, row_length: int
    ) -> tuple[Float[Array, "P V"], KVCache]:
        check_positions(config, execution, row_length)
        outer = merge_outer(outer_graph, params)
        # Prompts are right-padded: position is index, and causal attention alone hides the padding.
        positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]
        x = embed(config, execution, outer, tokens, positions)
        ropes = make_ropes(config, execution, positions)

        def in_order(
            kinds: tuple[str, ...], params: Params, x: Array
        ) -> tuple[Array, tuple[Array, Array]]:
            kept = []
            for kind, layer_params in zip(kinds, unstack(params, len(kinds)), strict=True):
                x, kv = parts.run_layer(
                    kind, layer_params, x, ropes, full_attention(config, execution, kind)
                )
                kept.append(kv)
            keys = [k.transpose(0, 2, 3, 1) for k, _ in kept]
            values = [v.transpose(0, 2, 1, 3) for _, v in kept]
            return x, (keys[0], values[0]) if len(kinds) == 1 else (
                jnp.stack(keys),
                jnp.stack(values),
            )

        caches = []
        for (_, kinds, repeats), part in _split_layers(params["layers"], parts.plan()):
            if repeats == 1:
                x, cache = in_order(kinds, part, x)
            else:

                def body(x: Array, group: Params, kinds: tuple[str, ...] = kinds) -> Any:
                    return in_order(kinds, group, x)

                x, cache = lax.scan(body, x, by_period(part, repeats, len(kinds)))
                cache = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[-4:]), cache)
            caches.append(cache)
        # Only the last present token predicts what is sampled: one row of logits a prompt, not T.
        last = jnp.take_along_axis(x, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)
        keys, values = zip(*caches, strict=True)
        return parts.logits(params, outer, last), KVCache(keys, values).pinned(execution.mesh)

    return prefill


def make_decode(
    config: ModelConfig,
    execution: Execution,
    outer_graph: nnx.GraphDef,
    block: nnx.GraphDef,
    unembed: Unembed,
) -> Callable[..., tuple[Array, KVCache]]:
    """Builds ``decode``: one token for every row, through the caches of prompt and completion.

    ``decode(params, tokens[B], cache, prompt_cache, *, prompt_lengths, num_generated, slot,
    row_length)``

    Args:
      config: the architecture.
      execution: how to run it.
      outer_graph: graph of `EmbeddingAndHead`.
      block: graph of one `Block`.
      unembed: from states to logits.

    Returns:
      The function; see `rlhf_jax.types.Model.decode`.
    """
    parts = _Parts(config, execution, outer_graph, block, unembed)

    def decode(
        params: Params,
        tokens: Int[Array, " B"],
        cache: KVCache,
        prompt_cache: KVCache,
        *,
        prompt_lengths: Int[Array, " B"],
        num_generated: Int[Array, " B"],
        slot: Int[Array, ""],
        row_length: int,
    ) -> tuple[Float[Array, "B V"], KVCache]:
        check_positions(config, execution, row_length)
        outer = merge_outer(outer_graph, params)
        # What was drawn lies as the rows that it was drawn of: pinned here, as numbers, so that
        # masks and rotations made of them need not be sent.
        tokens, prompt_lengths, num_generated = (
            constrain(x, execution.mesh, ("batch",))
            for x in (tokens, prompt_lengths, num_generated)
        )
        # Rows are at different places, but write at one slot: the position is a row's own number.
        positions = (prompt_lengths + num_generated)[:, None]
        x = embed(config, execution, outer, tokens[:, None], positions)
        ropes = make_ropes(config, execution, positions)
        seen = _visible(
            config, positions, num_generated, slot, prompt_cache.slots, cache.slots, prompt_lengths
        )

        def in_order(kinds, params, x, cache, prompt, first):
            for offset, (kind, layer_params) in enumerate(
                zip(kinds, unstack(params, len(kinds)), strict=True)
            ):

                def attend(q, k, v, kind=kind, layer=first + offset, offset=offset, old=cache):
                    # Written before it is read: the token sees itself through the ring.
                    new = write(old, layer, slot, k, v)
                    # One softmax over both: the prompt's, shared by a group, and the row's own.
                    segments = (
                        Segment(*read(prompt, offset), seen[kind][0]),
                        Segment(*read(new, layer), seen[kind][1]),
                    )
                    mixed = joint_attention(
                        q, segments, scale=config.attention_scale, softcap=config.attention_softcap
                    )
                    return mixed, new

                # The cache goes through the carry, so that it is updated in place and never copied.
                x, cache = parts.run_layer(kind, layer_params, x, ropes, attend)
            return x, cache

        caches = []
        leaves = (
            zip(cache.keys, cache.values, strict=True),
            zip(prompt_cache.keys, prompt_cache.values, strict=True),
        )
        split = _split_layers(params["layers"], parts.plan())
        for ((_, kinds, repeats), part), own, prompt in zip(split, *leaves, strict=True):
            if repeats == 1:
                x, own = in_order(kinds, part, x, own, prompt, 0)
            else:
                # What is only read is an input of the scan; the ring, written, is its carry.
                grouped = by_period((part, prompt), repeats, len(kinds))

                def body(carry, item, kinds=kinds):
                    x, cache = carry
                    step, (group, prompt) = item
                    return in_order(kinds, group, x, cache, prompt, step * len(kinds)), None

                (x, own), _ = lax.scan(body, (x, own), (jnp.arange(repeats), grouped))
            caches.append(own)
        keys, values = zip(*caches, strict=True)
        return parts.logits(params, outer, x), KVCache(keys, values).pinned(execution.mesh)

    return decode


def make_lay_out(config: ModelConfig, execution: Execution) -> Callable[[Params], Params]:
    """Builds ``lay_out(params)``: every layer in arrays of its own, on CPU where layers are
    unrolled; elsewhere the parameters as they are.

    A program that reads stacked layers one by one copies each of them for every token; laid out
    once, they are read in place. Only the layers are copied.

    Args:
      config: the architecture.
      execution: how to run it.

    Returns:
      The function; see `rlhf_jax.types.Model.lay_out`.
    """
    count = config.num_layers

    @jax.jit
    def apart(layers: Params) -> tuple[Params, ...]:
        # The barrier keeps the compiler from moving the copies back to where they are read.
        return lax.optimization_barrier(tuple(unstack(layers, count)))

    def lay_out(params: Params) -> Params:
        layers = params["layers"]
        # Asked when it is called: to build a model starts no backend.
        helps = platform() == "cpu" and execution.decodes_unrolled(count)
        if isinstance(layers, tuple) or not helps:
            return params
        return {**params, "layers": apart(layers)}

    return lay_out


def _visible(
    config: ModelConfig,
    positions: Int[Array, "B 1"],
    num_generated: Int[Array, " B"],
    slot: Int[Array, ""],
    prompt_slots: int,
    slots: int,
    prompt_lengths: Int[Array, " B"],
) -> dict[str, tuple[Array, Array]]:
    """Kind of layer -> which tokens of the prompt, and which entries of the ring, each row sees."""
    at = jnp.arange(prompt_slots)[None, :]
    # Entries of the ring by how long ago they were written: a row sees those since its start.
    behind = ((slot - jnp.arange(slots)) % slots)[None, :]
    prompt = at < prompt_lengths[:, None]
    own = behind <= num_generated[:, None]
    window = config.sliding_window
    # Sliding layers see the window only, counted across the border of prompt and completion.
    if window is None:
        return {"full": (prompt, own)}
    return {
        "full": (prompt, own),
        "sliding": (prompt & (positions - at < window), own & (behind < window)),
    }


def _split_layers(
    layers: Params | tuple[Params, ...], plan: list[Part]
) -> list[tuple[Part, Params]]:
    """The layers of every part; they may have been laid out (`make_lay_out`)."""
    count = sum(len(kinds) * repeats for _, kinds, repeats in plan)
    if not isinstance(layers, tuple):
        if any(repeats > 1 or len(kinds) > 1 for _, kinds, repeats in plan):
            return [
                (part, slice_layers(layers, part[0], len(part[1]) * part[2], count))
                for part in plan
            ]
        layers = tuple(unstack(layers, count))
    return [
        (part, jax.tree.map(lambda p: p[None], layer))
        for part, layer in zip(plan, layers, strict=True)
    ]
