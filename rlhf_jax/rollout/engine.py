"""Generation for a run: compiled once per shape, on a mesh, with slots that are refilled while others still decode."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.rollout.generate import (
    CHUNK,
    Decoding,
    assemble,
    decode_chunk,
    generate,
    keys_of_rows,
    make_static,
    start,
    windows,
)
from rlhf_jax.rollout.sampling import SamplingParams, check_sampling, sampling_steps
from rlhf_jax.sharding import BATCH_AXES, replicated
from rlhf_jax.types import Key, Model, Params, Rollout

_NARROWEST = 8
"""When no completion waits any more, the slots are halved as they empty, at most down to this share of them."""


class GenerationStats(NamedTuple):
    """What a generation cost."""

    tokens: int
    """Sampled tokens that count."""
    slot_steps: int
    """Tokens that could have been sampled: slots times steps, and the first token of every completion."""
    utilisation: float
    """``tokens / slot_steps``."""
    seconds: float
    """Wall time, compilation included."""


Generator = Callable[..., tuple[Rollout, GenerationStats]]
"""See `make_generator`."""


class _Job(NamedTuple):
    """One call's completions on the host. R completions, group-major."""

    prompts: Int[np.ndarray, "P Tp"]
    lengths: Int[np.ndarray, " P"]
    limits: Int[np.ndarray, " R"]
    key: Key
    sampling: SamplingParams
    steps: tuple[str, ...]


class _Slots(NamedTuple):
    """The completions that decode at the moment. S slots."""

    row: Int[np.ndarray, " S"]
    """Number of the completion."""
    prompt: Int[np.ndarray, " S"]
    """Its prompt's row in the pool."""
    length: Int[np.ndarray, " S"]
    limit: Int[np.ndarray, " S"]
    token: Int[np.ndarray, " S"]
    """Sampled last."""
    produced: Int[np.ndarray, " S"]
    active: Bool[np.ndarray, " S"]
    """False: the slot is free."""


class _Programs(NamedTuple):
    """The compiled functions."""

    whole: Callable[..., Rollout]
    empty_pool: Callable[..., Any]
    prefill: Callable[..., tuple[Any, Array, Array]]
    empty: Callable[..., Any]
    chunk: Callable[..., tuple[Any, Array, Array, Array, Array]]
    grow: Callable[..., Any]
    narrow: Callable[..., Any]


def make_generator(
    model: Model,
    *,
    mesh: Mesh | None,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    pad_id: int,
    group_size: int,
    prompt_buckets: Sequence[int],
    slots: int | None = None,
    chunk: int = CHUNK,
) -> Generator:
    """Builds the function that samples the completions of a run.

    ``generator(params, prompts[P, Tp], lengths[P], key, sampling, *, limits=None)`` takes NumPy prompts of any width and number,
    returns a `Rollout` of NumPy arrays (P * G rows; width: the prompts' bucket + `max_new_tokens`) and `GenerationStats`, and
    samples exactly what `rlhf_jax.rollout.generate` samples, whatever `slots` and `chunk` are.

    With `slots`, that many completions decode at a time, in programs of `chunk` tokens. Between two of them finished
    completions leave and waiting ones take their places, in order; the cache of the completions is a ring that all slots write at
    one common index, and that grows only when some completion needs it. Once none waits, the slots are halved as they empty.

    A program is compiled for a bucket of prompt widths, a number of prompts (padded to 1, 2, 4 or a multiple of 8), and, with
    `slots`, a size of the ring and a number of slots; the values of `sampling` compile nothing unless a filter is switched on.

    Args:
      model: with `prefill` and `decode`.
      mesh: the mesh of its parameters; None outside one.
      max_new_tokens: of a completion at most, EOS included.
      eos_ids: tokens that end a completion.
      pad_id: fills tokens off the mask.
      group_size: completions per prompt.
      prompt_buckets: widths that prompts are padded to.
      slots: None: all completions of a call decode together until the last one is done.
      chunk: tokens decoded between two looks at what is finished.

    Returns:
      The generator.

    Raises:
      ValueError: numbers below 1, no buckets, or slots that the mesh does not divide; and by the generator: prompts that are
        empty or wider than the last bucket, or sampling parameters out of range.
    """
    for name, value in (("max_new_tokens", max_new_tokens), ("group_size", group_size), ("chunk", chunk), ("slots", slots)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    shards = 1 if mesh is None else int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))
    if slots is not None and slots % shards:
        raise ValueError(f"slots={slots} must be a multiple of {shards} (mesh data x fsdp)")
    if not prompt_buckets:
        raise ValueError("prompt_buckets is empty; give the widths that prompts are padded to")
    buckets, eos_ids = sorted(prompt_buckets), tuple(int(token) for token in eos_ids)
    programs = _make_programs(model, mesh, max_new_tokens, eos_ids, pad_id, group_size, chunk)

    def generator(
        params: Params,
        prompts: Int[np.ndarray, "P Tp"],
        lengths: Int[np.ndarray, " P"],
        key: Key,
        sampling: SamplingParams,
        *,
        limits: Int[np.ndarray, " R"] | None = None,
    ) -> tuple[Rollout, GenerationStats]:
        began = time.perf_counter()
        rows = len(prompts) * group_size
        job = _make_job(
            prompts, lengths, limits, key, sampling, buckets=buckets, max_new_tokens=max_new_tokens, group_size=group_size
        )
        if slots is None or slots >= rows:
            out, slot_steps = _run_whole(programs, params, job, shards=shards, group_size=group_size, chunk=chunk)
        else:
            completions, slot_steps = _run_slots(
                programs,
                params,
                job,
                shards=shards,
                group_size=group_size,
                chunk=chunk,
                slots=slots,
                eos_ids=eos_ids,
                max_new_tokens=max_new_tokens,
            )
            repeated = np.repeat(job.prompts, group_size, axis=0), np.repeat(job.lengths, group_size)
            out = assemble(*repeated, *completions, pad_id=pad_id, eos_ids=eos_ids, xp=np)
        tokens = int(out.completion_mask.sum())
        stats = GenerationStats(tokens, slot_steps, tokens / max(slot_steps, 1), time.perf_counter() - began)
        return out, stats

    return generator


def _make_programs(
    model: Model,
    mesh: Mesh | None,
    max_new_tokens: int,
    eos_ids: tuple[int, ...],
    pad_id: int,
    group_size: int,
    chunk: int,
) -> _Programs:
    def for_host(*arrays: Array) -> tuple[Array, ...]:
        return arrays if mesh is None else tuple(jax.lax.with_sharding_constraint(x, replicated(mesh)) for x in arrays)

    def whole(params, prompts, lengths, limits, key, sampling, *, steps):
        options = {"max_new_tokens": max_new_tokens, "eos_id": eos_ids, "pad_id": pad_id, "group_size": group_size}
        out = generate(
            model, params, prompts, lengths, key, sampling=sampling, limits=limits, chunk=chunk, steps=steps, **options
        )
        return Rollout(*for_host(*out))

    def empty_pool(params, prompts, rows):
        lengths = jnp.ones(len(prompts), jnp.int32)
        _, cache = jax.eval_shape(
            lambda p, x: model.prefill(p, x, lengths, row_length=x.shape[1] + max_new_tokens), params, prompts
        )
        return cache.empty(rows, cache.slots).pinned(mesh)

    def prefill(params, pool, prompts, lengths, first, key, sampling, *, steps):
        static = make_static(model, steps, eos_ids, prompts.shape[1] + max_new_tokens)
        row_keys = keys_of_rows(key, first * group_size + jnp.arange(prompts.shape[0] * group_size))
        cache, token, logp = start(static, params, prompts, lengths, row_keys, sampling, group_size=group_size)
        return pool.put(cache, first).pinned(mesh), *for_host(token, logp)

    def decode(params, pool, cache, slot, slots, key, sampling, *, steps):
        static = make_static(model, steps, eos_ids, pool.slots + max_new_tokens)
        state = Decoding(cache, slots.token, slots.produced, slots.active)
        row = (slots.length, slots.limit, keys_of_rows(key, slots.row))
        prompts = pool.take(slots.prompt).pinned(mesh)
        state, tokens, logps = decode_chunk(static, params, state, prompts, slot, *row, sampling, chunk=chunk)
        return state.cache, *for_host(tokens, logps, state.produced, state.active)

    return _Programs(
        whole=jax.jit(whole, static_argnames="steps"),
        empty_pool=jax.jit(empty_pool, static_argnums=2),
        prefill=jax.jit(prefill, static_argnames="steps", donate_argnames="pool"),
        empty=jax.jit(lambda pool, rows, size: pool.empty(rows, size).pinned(mesh), static_argnums=(1, 2)),
        chunk=jax.jit(decode, static_argnames="steps", donate_argnames="cache"),
        grow=jax.jit(lambda cache, size, oldest: cache.grown(size, oldest).pinned(mesh), static_argnums=1),
        narrow=jax.jit(lambda cache, rows: cache.take(rows).pinned(mesh)),
    )


def _make_job(
    prompts: Int[np.ndarray, "P Tp"],
    lengths: Int[np.ndarray, " P"],
    limits: Int[np.ndarray, " R"] | None,
    key: Key,
    sampling: SamplingParams,
    *,
    buckets: Sequence[int],
    max_new_tokens: int,
    group_size: int,
) -> _Job:
    """Checks what a caller gave; prompts get the width of their bucket."""
    check_sampling(sampling)
    prompts, lengths = np.asarray(prompts, np.int32), np.asarray(lengths, np.int32)
    if len(prompts) == 0 or lengths.min() < 1:
        raise ValueError("an empty prompt, or none at all: a completion needs at least one token before it")
    longest = int(lengths.max())
    if longest > buckets[-1] or longest > prompts.shape[1]:
        raise ValueError(f"a prompt of {longest} tokens is wider than the widest bucket {buckets[-1]}; shorten the prompts")
    width = next(bucket for bucket in buckets if bucket >= longest)
    fitted = np.pad(prompts[:, :width], ((0, 0), (0, max(0, width - prompts.shape[1]))))
    rows = len(prompts) * group_size
    own = np.full(rows, max_new_tokens) if limits is None else np.asarray(limits)
    if own.shape != (rows,):
        raise ValueError(f"limits has shape {own.shape}, but there are {rows} completions")
    own = np.clip(own, 0, max_new_tokens).astype(np.int32)
    return _Job(fitted, lengths, own, key, sampling, sampling_steps(sampling))


def _padded_count(count: int, multiple: int) -> int:
    """The next of 1, 2, 4, 8, 16, 24, ... that is a multiple."""
    rounded = next((small for small in (1, 2, 4) if small >= count), -(-count // 8) * 8)
    return -(-rounded // multiple) * multiple


def _pad_rows(x: np.ndarray, rows: int, fill: int) -> np.ndarray:
    return np.concatenate([x, np.full((rows - len(x), *x.shape[1:]), fill, x.dtype)])


def _run_whole(
    programs: _Programs, params: Params, job: _Job, *, shards: int, group_size: int, chunk: int
) -> tuple[Rollout, int]:
    """All completions in one program."""
    count = _padded_count(len(job.prompts), shards)
    prompts, lengths = _pad_rows(job.prompts, count, 0), _pad_rows(job.lengths, count, 1)
    limits = _pad_rows(job.limits, count * group_size, 0)
    out = programs.whole(params, prompts, lengths, limits, job.key, job.sampling, steps=job.steps)
    rows = len(job.limits)
    rollout = Rollout(*(np.asarray(x)[:rows] for x in jax.device_get(out)))
    longest = int(rollout.completion_mask.sum(axis=1).max())
    steps = -(-max(longest - 1, 0) // chunk) * chunk
    return rollout, rows + count * group_size * steps


class _Collected(NamedTuple):
    """Completions as they come, on the host; R completions."""

    tokens: Int[np.ndarray, "R N"]
    logps: Float[np.ndarray, "R N"]
    produced: Int[np.ndarray, " R"]


def _run_slots(
    programs: _Programs,
    params: Params,
    job: _Job,
    *,
    shards: int,
    group_size: int,
    chunk: int,
    slots: int,
    eos_ids: tuple[int, ...],
    max_new_tokens: int,
) -> tuple[_Collected, int]:
    """Continuous batching."""
    pool, first_tokens, first_logps = _fill_pool(programs, params, job, shards=shards, group_size=group_size, slots=slots)
    sizes = windows(max_new_tokens, chunk)
    rows = len(job.limits)
    done = _Collected(
        np.zeros((rows, max_new_tokens), np.int32), np.zeros((rows, max_new_tokens), np.float32), np.minimum(job.limits, 1)
    )
    done.tokens[:, 0], done.logps[:, 0] = first_tokens, first_logps
    waiting = [row for row in range(rows) if job.limits[row] > 1 and first_tokens[row] not in eos_ids][::-1]
    held = _Slots(*(np.zeros(slots, np.int32) for _ in range(6)), np.zeros(slots, bool))
    slot, slot_steps, cache = 0, rows, None
    while waiting or held.active.any():
        _refill(held, waiting, job, first_tokens, group_size)
        keep = None if waiting else _narrowed(held, slots, shards)
        if keep is not None:
            held = _Slots(*(x[keep] for x in held))
            cache = None if cache is None else programs.narrow(cache, keep)
        needed = min(int(held.produced[held.active].max()) + chunk - 1, sizes[-1])
        size = next(size for size in sizes if size >= needed)
        if cache is None:
            cache = programs.empty(pool, len(held.row), size)
        elif size > cache.slots:
            slot, cache = cache.slots, programs.grow(cache, size, slot)
        cache, *news = programs.chunk(params, pool, cache, slot, held, job.key, job.sampling, steps=job.steps)
        slot = (slot + chunk) % cache.slots
        slot_steps += len(held.row) * chunk
        held = _collect(done, held, *jax.device_get(news))
    return done, slot_steps


def _fill_pool(
    programs: _Programs, params: Params, job: _Job, *, shards: int, group_size: int, slots: int
) -> tuple[Any, np.ndarray, np.ndarray]:
    """Keys and values of all prompts, and the first token of every completion with its log-probability."""
    count = len(job.prompts)
    at_once = _padded_count(min(count, max(1, slots // group_size)), shards)
    pool_rows = -(-count // at_once) * at_once
    prompts, lengths = _pad_rows(job.prompts, pool_rows, 0), _pad_rows(job.lengths, pool_rows, 1)
    pool, tokens, logps = programs.empty_pool(params, prompts[:at_once], pool_rows), [], []
    for first in range(0, pool_rows, at_once):
        part = slice(first, first + at_once)
        pool, token, logp = programs.prefill(
            params, pool, prompts[part], lengths[part], first, job.key, job.sampling, steps=job.steps
        )
        tokens.append(np.asarray(token))
        logps.append(np.asarray(logp))
    rows = len(job.limits)
    return pool, np.concatenate(tokens)[:rows], np.concatenate(logps)[:rows]


def _refill(held: _Slots, waiting: list[int], job: _Job, first_tokens: np.ndarray, group_size: int) -> None:
    """Gives free slots to the completions that wait, in order. `waiting` is reversed."""
    for slot in np.flatnonzero(~held.active):
        if not waiting:
            return
        row = waiting.pop()
        prompt = row // group_size
        values = (row, prompt, job.lengths[prompt], job.limits[row], first_tokens[row], 1, True)
        for field, value in zip(held, values, strict=True):
            field[slot] = value


def _narrowed(held: _Slots, slots: int, shards: int) -> np.ndarray | None:
    """The slots to go on with, when half of them or fewer would do; None: all."""
    width, active = len(held.row), np.flatnonzero(held.active)
    narrow = width
    while narrow % 2 == 0 and narrow // 2 % shards == 0 and narrow // 2 >= max(len(active), slots / _NARROWEST):
        narrow //= 2
    if narrow == width:
        return None
    free = np.flatnonzero(~held.active)
    return np.concatenate([active, free[: narrow - len(active)]]).astype(np.int32)


def _collect(
    done: _Collected, held: _Slots, tokens: np.ndarray, logps: np.ndarray, produced: np.ndarray, active: np.ndarray
) -> _Slots:
    """Stores what a chunk produced."""
    for slot in np.flatnonzero(held.active):
        row, before, after = held.row[slot], held.produced[slot], produced[slot]
        done.tokens[row, before:after] = tokens[slot, : after - before]
        done.logps[row, before:after] = logps[slot, : after - before]
        done.produced[row] = after
    return held._replace(token=tokens[:, -1].copy(), produced=produced.copy(), active=active.copy())
