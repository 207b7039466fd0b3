"""Continuous batching: between two chunks, the host gives free slots to completions that wait."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from rlhf_jax.rollout.generate import Cache, windows
from rlhf_jax.rollout.programs import Programs, Settings, Slots
from rlhf_jax.rollout.queues import Pool, Waiting, make_pool
from rlhf_jax.rollout.sampling import SamplingParams
from rlhf_jax.types import Key, Params

_NARROWEST = 8
"""When no completion waits any more, the slots are halved as they empty, at most down to this share
of them."""


class Job(NamedTuple):
    """One call's completions on the host. R completions, group-major."""

    prompts: Int[np.ndarray, "P Tp"]
    lengths: Int[np.ndarray, " P"]
    limits: Int[np.ndarray, " R"]
    key: Key
    sampling: SamplingParams
    steps: tuple[str, ...]


class Completions(NamedTuple):
    """Completions as they come, on the host. R completions of at most N tokens."""

    tokens: Int[np.ndarray, "R N"]
    logps: Float[np.ndarray, "R N"]
    produced: Int[np.ndarray, " R"]
    stopped: Bool[np.ndarray, " R"]
    """Ended by a stop string."""


def run_slots(
    programs: Programs, params: Params, job: Job, settings: Settings
) -> tuple[Completions, int]:
    """Samples all completions of a job through the slots.

    The host waits for every chunk, so at most one program is ever under way.

    Args:
      programs: compiled parts.
      params: parameters of the model.
      job: what to sample.
      settings: with `slots`.

    Returns:
      (completions, slots times steps and the first token of every completion).
    """
    assert settings.slots is not None
    params = programs.lay_out(params)
    # All prompts are read first: their keys and values wait in a pool that slots point into.
    places = _places(job, settings)
    pool, first_tokens, first_logps = _fill_pool(programs, params, job, places, settings)
    sizes = windows(settings.max_new_tokens, settings.chunk)
    rows = len(job.limits)
    shape = (rows, settings.max_new_tokens)
    logps = np.zeros(shape, first_logps.dtype)
    stopped = np.zeros(rows, bool)
    done = Completions(np.zeros(shape, np.int32), logps, np.minimum(job.limits, 1), stopped)
    done.tokens[:, 0] = first_tokens
    done.logps[:, 0] = first_logps
    for row in range(rows):
        _end_at_string(done, row, 0, settings)
    ended = stopped | np.isin(first_tokens, settings.eos_ids)
    waiting = Waiting(
        np.flatnonzero((job.limits > 1) & ~ended).tolist(),
        places,
        group_size=settings.group_size,
        shards=settings.shards,
    )
    held = Slots(
        *(np.ones(settings.slots, np.int32) for _ in range(6)), np.zeros(settings.slots, bool)
    )  # type: ignore[call-arg]
    slot = 0
    slot_steps = rows
    ring = None
    while waiting or held.active.any():
        _refill(held, waiting, job, first_tokens, settings)
        # The ring must hold the longest active completion after this chunk, and no more.
        needed = min(int(held.produced[held.active].max()) + settings.chunk - 1, sizes[-1])
        size = next(size for size in sizes if size >= needed)
        if ring is None:
            ring = programs.empty(pool, settings.slots, size)
        # Nobody waits for the empty slots any more: half as many cost half as much a step.
        while not waiting and (keep := _half(held, settings)) is not None:
            within = keep % (len(held.row) // settings.shards)
            held = Slots(*(x[keep] for x in held))
            ring = programs.narrow(ring, within)
        if size > ring.slots:
            # Grown, the ring begins with its oldest entry: the next one goes behind the newest.
            old_slots = ring.slots
            ring = programs.grow(ring, size, slot)
            slot = old_slots
        # Only tokens, log-probabilities and counts come back; the ring stays on the device.
        ring, *news = programs.chunk(
            params, pool, ring, slot, held, job.key, job.sampling, steps=job.steps
        )
        slot = (slot + settings.chunk) % ring.slots
        slot_steps += len(held.row) * settings.chunk
        held = _collect(done, held, settings, *jax.device_get(news))
    return done, slot_steps


def padded_count(count: int, multiple: int) -> int:
    """The next of 1, 2, 4, 8, 16, 24, ..., rounded up to a multiple."""
    rounded = next((small for small in (1, 2, 4) if small >= count), -(-count // 8) * 8)
    return -(-rounded // multiple) * multiple


def pad_rows(x: np.ndarray, rows: int, fill: int) -> np.ndarray:
    """Rows of `fill` appended."""
    return np.concatenate([x, np.full((rows - len(x), *x.shape[1:]), fill, x.dtype)])


def _places(job: Job, settings: Settings) -> Pool:
    """Where the prompts are kept, and how many are read at a time."""
    assert settings.slots is not None
    # As many prompts at a time as the slots hold groups, which bounds the memory of reading them;
    # the last part is filled up, so that one shape is compiled.
    count = len(job.prompts)
    at_once = padded_count(
        min(count, max(1, settings.slots // settings.group_size)), settings.shards
    )
    return make_pool(count, at_once=at_once, shards=settings.shards)


def _fill_pool(
    programs: Programs, params: Params, job: Job, places: Pool, settings: Settings
) -> tuple[Cache, np.ndarray, np.ndarray]:
    """Keys and values of all prompts; first token of every completion, and its log-prob."""
    rows = len(job.limits)
    prompts = job.prompts[places.prompt]
    lengths = job.lengths[places.prompt]
    pool_rows = len(prompts)
    at_once = places.at_once
    pool = programs.empty_pool(params, prompts[:at_once], pool_rows)
    tokens = []
    logps = []
    for first in range(0, pool_rows, at_once):
        part = prompts[first : first + at_once], lengths[first : first + at_once]
        pool, token, logp = programs.prefill(
            params, pool, *part, first, job.key, job.sampling, steps=job.steps
        )
        tokens.append(np.asarray(token))
        logps.append(np.asarray(logp))
    return pool, np.concatenate(tokens)[:rows], np.concatenate(logps)[:rows]


def _refill(
    held: Slots, waiting: Waiting, job: Job, first_tokens: np.ndarray, settings: Settings
) -> None:
    """Gives free slots to waiting completions of their shard, in order."""
    per_shard = len(held.row) // settings.shards
    for slot in np.flatnonzero(~held.active).tolist():
        taken = waiting.next_of(slot // per_shard)
        if taken is None:
            continue
        row, place = taken
        prompt = row // settings.group_size
        values = (row, place, job.lengths[prompt], job.limits[row], first_tokens[row], 1, True)
        for field, value in zip(held, values, strict=True):
            field[slot] = value


def _half(held: Slots, settings: Settings) -> np.ndarray | None:
    """Half of the slots of every shard, with all active ones; None: they do not fit, or slots are
    few."""
    assert settings.slots is not None
    slots = np.arange(len(held.row)).reshape(settings.shards, -1)
    half = slots.shape[1] // 2
    most = int(held.active.reshape(slots.shape).sum(axis=1).max())
    if slots.shape[1] % 2 or half < most or half * settings.shards < settings.slots / _NARROWEST:
        return None
    # Active slots move to the front of their shard; idle ones fill up the half.
    order = np.argsort(~held.active.reshape(slots.shape), axis=1, kind="stable")
    return np.take_along_axis(slots, order[:, :half], axis=1).reshape(-1).astype(np.int32)


def _end_at_string(done: Completions, row: int, before: int, settings: Settings) -> bool:
    """Cuts a completion behind the token that ends a stop string, if one after `before` does."""
    if settings.string_end is None:
        return False
    end = settings.string_end(done.tokens[row, : done.produced[row]].tolist(), before)
    if end is not None:
        done.produced[row] = end
        done.stopped[row] = True
    return end is not None


def _collect(done: Completions, held: Slots, settings: Settings, *news: np.ndarray) -> Slots:
    """Stores what a chunk produced: tokens, log-probs, how many, and which slots go on."""
    tokens, logps, produced, active = news
    active = active.copy()
    for slot in np.flatnonzero(held.active):
        row = held.row[slot]
        before = held.produced[slot]
        after = produced[slot]
        # `produced` says how much of the chunk counts: a completion may have ended inside it.
        done.tokens[row, before:after] = tokens[slot, : after - before]
        done.logps[row, before:after] = logps[slot, : after - before]
        done.produced[row] = after
        # The device knows end tokens, not strings: the host ends those, a chunk late, and cuts.
        if _end_at_string(done, row, before, settings):
            active[slot] = False
    return held._replace(token=tokens[:, -1].copy(), produced=produced.copy(), active=active)
