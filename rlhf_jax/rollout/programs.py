"""The compiled parts of a generator."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from rlhf_jax.programs import jitted, named, times
from rlhf_jax.rollout.generate import (
    Cache,
    Decoding,
    Rows,
    decode_chunk,
    generate,
    keys_of_rows,
    lay_out,
    make_static,
    start,
)
from rlhf_jax.sharding import replicated
from rlhf_jax.types import Model, Params, Rollout

StringEnd = Callable[[Sequence[int], int], int | None]
"""(ids of a completion so far, how many of them were looked at before) -> tokens up to and
including the one that completes a stop string; None: none does."""


class Settings(NamedTuple):
    """A generator's options; see `rlhf_jax.rollout.engine.make_generator`."""

    mesh: Mesh | None
    max_new_tokens: int
    eos_ids: tuple[int, ...]
    pad_id: int
    group_size: int
    buckets: tuple[int, ...]
    slots: int | None
    chunk: int
    shards: int
    """Parts that the mesh divides rows into."""
    missing_ids: tuple[int, ...] = ()
    string_end: StringEnd | None = None


class Slots(NamedTuple):
    """The completions that decode at the moment, on the host. S slots."""

    row: Int[np.ndarray, " S"]
    """Number of the completion."""
    prompt: Int[np.ndarray, " S"]
    """Its prompt's row in the pool, counted from the first one of the slot's shard."""
    length: Int[np.ndarray, " S"]
    limit: Int[np.ndarray, " S"]
    token: Int[np.ndarray, " S"]
    """Sampled last."""
    produced: Int[np.ndarray, " S"]
    active: Bool[np.ndarray, " S"]
    """False: the slot is free."""


class Programs(NamedTuple):
    """Jitted functions; `steps` is static and says which steps of sampling a program has."""

    whole: Callable[..., Rollout]
    """(params, prompts, lengths, limits, key, sampling, *, steps) -> rollout."""
    lay_out: Callable[[Params], Params]
    """(params) -> params as the programs below read them fastest."""
    empty_pool: Callable[..., Cache]
    """(params, prompts, rows) -> room for the keys and values of this many prompts of that
    width."""
    prefill: Callable[..., tuple[Cache, Array, Array]]
    """(params, pool, prompts, lengths, first, key, sampling, *, steps) -> (pool, first tokens,
    their log-probabilities)."""
    empty: Callable[..., Cache]
    """(pool, rows, size) -> an empty ring for completions."""
    chunk: Callable[..., tuple[Cache, Array, Array, Array, Array]]
    """(params, pool, ring, slot, slots, key, sampling, *, steps) -> (ring, tokens, logps, produced,
    active)."""
    grow: Callable[..., Cache]
    """(ring, size, oldest) -> a larger ring."""
    narrow: Callable[..., Cache]
    """(ring, rows) -> a ring of fewer rows: as many of every shard, counted within it."""


Watch = Callable[[Programs], Programs]
"""Compiled functions -> functions that call them."""


def make_programs(model: Model, settings: Settings) -> Programs:
    """Builds the functions of one generator. What the host reads comes back whole on every device.

    Args:
      model: with `prefill` and `decode`.
      settings: the generator's options.

    Raises:
      ValueError: the model has no language-model head.
    """
    mesh = settings.mesh
    eos_ids = settings.eos_ids
    limit = settings.max_new_tokens
    shards = settings.shards
    for_host = functools.partial(_for_host, mesh)
    make_static(model, (), eos_ids, 0)

    def whole(params, prompts, lengths, limits, key, sampling, *, steps):
        out = generate(
            model,
            params,
            prompts,
            lengths,
            key,
            sampling=sampling,
            max_new_tokens=limit,
            eos_id=eos_ids,
            pad_id=settings.pad_id,
            group_size=settings.group_size,
            limits=limits,
            chunk=settings.chunk,
            steps=steps,
            missing_ids=settings.missing_ids,
        )
        return Rollout(*for_host(*out))

    def empty_pool(params, prompts, rows):
        static = make_static(model, (), eos_ids, prompts.shape[1] + limit)
        read = functools.partial(static.prefill, row_length=static.row_length)
        _, cache = jax.eval_shape(
            read, params, prompts, jax.ShapeDtypeStruct(prompts.shape[:1], jnp.int32)
        )
        return cache.empty(rows, cache.slots).pinned(mesh)

    def prefill(params, pool, prompts, lengths, first, key, sampling, *, steps):
        static = make_static(model, steps, eos_ids, prompts.shape[1] + limit, settings.missing_ids)
        keys = keys_of_rows(
            key, first * settings.group_size + jnp.arange(prompts.shape[0] * settings.group_size)
        )
        cache, token, logp = start(static, params, prompts, lengths, keys, sampling=sampling)
        # Every shard reads prompts, and keeps those that it has read.
        pool = pool.put(cache, first // shards, parts=shards).pinned(mesh)
        return pool, *for_host(token, logp)

    def decode(params, pool, ring, slot, slots, key, sampling, *, steps):
        static = make_static(model, steps, eos_ids, pool.slots + limit, settings.missing_ids)
        state = Decoding(ring, slots.token, slots.produced, slots.active)
        rows = Rows(slots.length, slots.limit, keys_of_rows(key, slots.row))
        prompts = pool.take(slots.prompt, parts=shards).pinned(mesh)
        state, tokens, logps = decode_chunk(
            static, params, state, prompts, rows, slot=slot, sampling=sampling, chunk=settings.chunk
        )
        return state.cache, *for_host(tokens, logps, state.produced, state.active)

    return Programs(
        whole=named("generate", jitted(whole, static_argnames="steps"), _whole_shape),
        lay_out=functools.partial(lay_out, model),
        empty_pool=jax.jit(empty_pool, static_argnums=2),
        prefill=named(
            "prefill",
            jitted(prefill, static_argnames="steps", donate_argnames="pool"),
            _prefill_shape,
        ),
        empty=jax.jit(
            lambda pool, rows, size: pool.empty(rows, size).pinned(mesh), static_argnums=(1, 2)
        ),
        chunk=named(
            "decode",
            jitted(decode, static_argnames="steps", donate_argnames="ring"),
            _decode_shape,
        ),
        grow=jax.jit(
            lambda ring, size, oldest: ring.grown(size, oldest).pinned(mesh), static_argnums=1
        ),
        narrow=jax.jit(lambda ring, rows: ring.take(rows, parts=shards).pinned(mesh)),
    )


def _for_host(mesh: Mesh | None, *arrays: Array) -> tuple[Array, ...]:
    """Arrays that the host reads: whole on every device."""
    if mesh is None:
        return arrays
    return tuple(jax.lax.with_sharding_constraint(x, replicated(mesh)) for x in arrays)


def _whole_shape(
    params: Any,
    prompts: np.ndarray,
    lengths: Any,
    limits: np.ndarray,
    key: Any,
    *_: Any,
    steps: Any,
) -> str:
    # Keys of one's own are another program than one key for all.
    keys = "" if key.ndim == 0 else ", a key each"
    return f"{times(*prompts.shape)} prompts, {len(limits)} completions{keys}{_ways(steps)}"


def _prefill_shape(params: Any, pool: Any, prompts: np.ndarray, *_: Any, steps: Any) -> str:
    return f"{times(*prompts.shape)} prompts{_ways(steps)}"


def _decode_shape(
    params: Any, pool: Cache, ring: Cache, slot: Any, slots: Slots, *_: Any, steps: Any
) -> str:
    prompts = f"{times(pool.rows, pool.slots)} prompts"
    return f"{times(ring.rows, ring.slots)} slots, {prompts}{_ways(steps)}"


def _ways(steps: Sequence[str]) -> str:
    """The steps of sampling that a program has."""
    return f", {' + '.join(steps)}" if steps else ""
