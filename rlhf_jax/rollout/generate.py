"""Completions of a batch of prompts as one pure function.

`generate` is the whole: `start` reads the prompts and draws the first tokens, `decode_chunk` is the
body of the loop, `assemble` joins prompts and completions. `refill` builds continuous batching from
the same three parts, driven by the host.
"""

import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.rollout.sampling import SamplingParams, choose, row_bits, sampling_steps
from rlhf_jax.types import Key, Model, Params, Rollout

Cache: TypeAlias = Any
"""Keys and values, a pytree of the model's own (`rlhf_jax.models.cache.KVCache`)."""

HostOrDevice: TypeAlias = Array | np.ndarray

CHUNK = 16
"""Tokens decoded between two looks at whether all rows are finished."""

FIRST_WINDOW = 64
"""Places for a completion's keys at first; the cache doubles when they are full."""


class Decoding(NamedTuple):
    """Rows in the middle of their completions. B rows, W places of the cache."""

    cache: Cache
    """Keys and values of the completions, see `rlhf_jax.models`."""
    token: Int[Array, " B"]
    """Sampled last; not in the cache yet."""
    produced: Int[Array, " B"]
    """Tokens of the completion so far, `token` included."""
    active: Bool[Array, " B"]
    """Goes on: neither EOS nor the row's limit was reached."""


class Rows(NamedTuple):
    """What stays the same of every row while it decodes."""

    lengths: Int[Array, " B"]
    """Tokens of its prompt."""
    limits: Int[Array, " B"]
    """Tokens of its completion at most."""
    keys: Key
    """[B], see `keys_of_rows`."""


class Static(NamedTuple):
    """What a decoding program is compiled for, besides shapes."""

    prefill: Callable[..., Any]
    decode: Callable[..., Any]
    steps: tuple[str, ...]
    eos_ids: tuple[int, ...]
    row_length: int
    missing_ids: tuple[int, ...]


def generate(
    model: Model,
    params: Params,
    prompts: Int[Array, "P Tp"],
    prompt_lengths: Int[Array, " P"],
    key: Key,
    *,
    sampling: SamplingParams,
    max_new_tokens: int,
    eos_id: int | Sequence[int],
    pad_id: int,
    group_size: int = 1,
    limits: Int[Array, " B"] | None = None,
    chunk: int = CHUNK,
    steps: tuple[str, ...] | None = None,
    missing_ids: Sequence[int] = (),
) -> Rollout:
    """Samples `group_size` completions a prompt. Pure: jit it, vmap it over `params` and `key`.

    Each prompt is read once; its keys and values are shared by its group. What a row draws depends
    on the key, the row's number and the token's index only, so that neither the batch nor `chunk`
    changes it (beyond rounding of the logits). With a key per row it depends on that key and the
    token's index alone: give keys that are made from the prompt and the sample's number where the
    layout of a batch must not matter.

    Args:
      model: with `prefill` and `decode`.
      params: its parameters; no gradient flows.
      prompts: right-padded; what stands in the padding is not read.
      prompt_lengths: tokens of each prompt, at least 1.
      key: of all draws; or one per row, [B].
      sampling: how tokens are chosen. Python numbers select the cheapest program; traced values a
        general one.
      max_new_tokens: of a completion at most, EOS included. Static.
      eos_id: the token, or tokens, that end a completion. Static.
      pad_id: fills tokens off the mask.
      group_size: completions per prompt, G. Static.
      limits: each row's own maximum, at most `max_new_tokens`; a row of limit 0 stays empty.
      chunk: tokens decoded between two looks at whether all rows are finished. Static.
      steps: which steps of sampling the program has, where `sampling` is traced and the caller
        knows more; None: read off `sampling`. Static.
      missing_ids: ids that no token of the tokenizer has (`FastTokenizer.missing_ids`): never
        sampled, see `choose`. Static.

    Returns:
      A `Rollout` of B = P * G rows and T = Tp + `max_new_tokens` columns. Its `logps` are those of
      the distribution before top-k, top-p and min-p, see `rlhf_jax.rollout.sampling.choose`.

    Raises:
      ValueError: a model without a language-model head, or one with fewer learned positions than T.
    """
    count = prompts.shape[0] * group_size
    row_length = prompts.shape[1] + max_new_tokens
    steps = sampling_steps(sampling) if steps is None else steps
    static = make_static(model, steps, eos_id, row_length, missing_ids)
    params = lay_out(model, params)
    lengths = jnp.repeat(prompt_lengths, group_size)
    limits = (
        jnp.full(count, max_new_tokens) if limits is None else jnp.minimum(limits, max_new_tokens)
    )
    rows = Rows(lengths, limits, keys_of_rows(key, jnp.arange(count)))
    prompt_cache, token, logp = start(
        static, params, prompts, prompt_lengths, rows.keys, sampling=sampling
    )

    # The first token came with the prompt; the loop draws the others. The outputs have a chunk of
    # room behind the last column: a chunk is written whole, what is beyond the limit is cut off.
    active = ~is_eos(token, static.eos_ids) & (limits > 1)
    state = Decoding(prompt_cache.empty(count, 0), token, jnp.ones_like(token), active)
    out = jnp.zeros((count, max_new_tokens + chunk), jnp.int32).at[:, 0].set(token)
    out_logps = jnp.zeros((count, max_new_tokens + chunk), logp.dtype).at[:, 0].set(logp)
    carry = (state, jnp.zeros((), jnp.int32), out, out_logps)
    # A loop per size of the cache: early tokens attend to a short one. Its trip count depends on
    # the data, so the test for the end comes once a chunk, not once a token.
    for window in windows(max_new_tokens, chunk):

        def body(carry: Any) -> Any:
            state, slot, out, out_logps = carry
            state, tokens, logps = decode_chunk(
                static, params, state, prompt_cache, rows, slot=slot, sampling=sampling, chunk=chunk
            )
            out = lax.dynamic_update_slice(out, tokens, (0, slot + 1))
            return (
                state,
                slot + chunk,
                out,
                lax.dynamic_update_slice(out_logps, logps, (0, slot + 1)),
            )

        def unfinished(carry: Any, window: int = window) -> Bool[Array, ""]:
            return carry[0].active.any() & (carry[1] < window)

        cache = (
            carry[0].cache.empty(count, window)
            if carry[0].cache.slots == 0
            else carry[0].cache.grown(window)
        )
        carry = (carry[0]._replace(cache=cache), *carry[1:])
        carry = lax.while_loop(unfinished, body, carry)
    state, _, out, out_logps = carry
    # A row ends at its limit within a chunk: what it drew beyond was never counted.
    completions = (
        out[:, :max_new_tokens],
        out_logps[:, :max_new_tokens],
        jnp.minimum(state.produced, limits),
    )
    return assemble(
        jnp.repeat(prompts, group_size, axis=0),
        lengths,
        *completions,
        pad_id=pad_id,
        eos_ids=static.eos_ids,
    )


def lay_out(model: Model, params: Params) -> Params:
    """Parameters as the model reads them fastest while it decodes."""
    return params if model.lay_out is None else model.lay_out(params)


def keys_of_rows(key: Key, rows: Int[Array, " B"]) -> Key:
    """One key per row, from the row's number; or, of one key per row, those of these rows."""
    if key.ndim:
        # rows that only fill a shape draw what the last one draws
        return key.at[rows].get(mode="clip")
    return jax.vmap(jax.random.fold_in, (None, 0))(key, rows)


def make_static(
    model: Model,
    steps: tuple[str, ...],
    eos_id: int | Sequence[int],
    row_length: int,
    missing_ids: Sequence[int] = (),
) -> Static:
    """Checks the model and collects what programs are compiled for."""
    if model.prefill is None or model.decode is None:
        raise ValueError(
            "this model has no language-model head, so it cannot generate; load it with head=None "
            "or head='value'"
        )
    eos_ids = (eos_id,) if isinstance(eos_id, int) else tuple(int(e) for e in eos_id)
    return Static(
        model.prefill,
        model.decode,
        steps,
        eos_ids,
        row_length,
        tuple(int(token) for token in missing_ids),
    )


def windows(max_new_tokens: int, chunk: int) -> list[int]:
    """Sizes that the completions' cache grows through: 64, 128, .. in whole chunks, up to all."""
    if max_new_tokens == 1:
        return []
    last = -(-(max_new_tokens - 1) // chunk) * chunk
    sizes = []
    size = -(-FIRST_WINDOW // chunk) * chunk
    while size < last:
        sizes.append(size)
        size *= 2
    return [*sizes, last]


def start(
    static: Static,
    params: Params,
    prompts: Int[Array, "P Tp"],
    prompt_lengths: Int[Array, " P"],
    row_keys: Key,
    *,
    sampling: SamplingParams,
) -> tuple[Cache, Int[Array, " B"], Float[Array, " B"]]:
    """Reads the prompts and draws the first token of every row; consecutive rows share a prompt.

    Returns:
      (keys and values of the prompts, tokens, their log-probabilities).
    """
    present = jnp.arange(prompts.shape[1])[None, :] < prompt_lengths[:, None]
    logits, cache = static.prefill(
        params, jnp.where(present, prompts, 0), prompt_lengths, row_length=static.row_length
    )
    # Index 0 of every row. The group shares the prompt's logits and differs in its draws.
    bits = row_bits(row_keys, jnp.zeros(row_keys.shape, jnp.int32))
    logits = jnp.repeat(logits, len(row_keys) // len(prompts), axis=0)
    token, logp = choose(logits, bits, sampling, static.steps, static.missing_ids)
    return cache, token, logp


def decode_chunk(
    static: Static,
    params: Params,
    state: Decoding,
    prompt_cache: Cache,
    rows: Rows,
    *,
    slot: Int[Array, ""],
    sampling: SamplingParams,
    chunk: int,
) -> tuple[Decoding, Int[Array, "B n"], Float[Array, "B n"]]:
    """Decodes `chunk` tokens of every row; inactive rows compute along and change nothing.

    Args:
      static: what the program is compiled for.
      params: parameters of the model.
      state: the rows.
      prompt_cache: keys and values of their prompts; as many rows as the state has, or fewer, then
        shared by groups.
      rows: what does not change.
      slot: place in the cache for the first of these tokens; the cache is a ring.
      sampling: how tokens are chosen.
      chunk: how many.

    Returns:
      (state, tokens, log-probabilities): columns of inactive rows mean nothing.
    """
    # Drawn before the loop, in one vectorised call; an inactive row's bits are not used.
    bits = jax.vmap(lambda i: row_bits(rows.keys, state.produced + i))(jnp.arange(chunk))

    def one(state: Decoding, item: tuple[Array, Array]) -> tuple[Decoding, tuple[Array, Array]]:
        step, bits = item
        logits, cache = static.decode(
            params,
            state.token,
            state.cache,
            prompt_cache,
            prompt_lengths=rows.lengths,
            num_generated=state.produced - 1,
            slot=(slot + step) % state.cache.slots,
            row_length=static.row_length,
        )
        token, logp = choose(logits, bits, sampling, static.steps, static.missing_ids)
        # A row counts while it is active, EOS included; then it decodes along, and what it draws
        # and writes is read by nobody.
        produced = state.produced + state.active
        active = state.active & ~is_eos(token, static.eos_ids) & (produced < rows.limits)
        return Decoding(cache, token, produced, active), (token, logp)

    state, (tokens, logps) = lax.scan(one, state, (jnp.arange(chunk), bits))
    return state, tokens.T, logps.T


def assemble(
    prompts: HostOrDevice,
    lengths: HostOrDevice,
    tokens: HostOrDevice,
    logps: HostOrDevice,
    produced: HostOrDevice,
    *,
    pad_id: int,
    eos_ids: tuple[int, ...],
    stopped: HostOrDevice | bool = False,
    xp: types.ModuleType = jnp,
) -> Rollout:
    """Prompts directly followed by completions.

    Args:
      prompts: [B, Tp], one per row.
      lengths: [B], of the prompts.
      tokens: [B, N], completions.
      logps: [B, N], of their tokens.
      produced: [B], how many of them count.
      pad_id: fills the rest.
      eos_ids: a completion that ends neither in one of these nor by a stop string is truncated.
      stopped: [B], which completions end by a stop string.
      xp: `jax.numpy`, or `numpy` for arrays of the host.
    """
    # Where each column lies, counted from the end of its row's prompt: completions begin right
    # behind it, so that padding is at the right end only.
    column = xp.arange(prompts.shape[1] + tokens.shape[1])[None, :]
    place = column - lengths[:, None]
    in_completion = (place >= 0) & (place < produced[:, None])
    index = xp.clip(place, 0, tokens.shape[1] - 1)
    ids = xp.where(in_completion, xp.take_along_axis(tokens, index, axis=1), pad_id)
    before = xp.pad(prompts, ((0, 0), (0, tokens.shape[1])))
    # Truncated: the last token that counts ends nothing (and an empty row was cut at 0).
    last = xp.take_along_axis(tokens, xp.maximum(produced - 1, 0)[:, None], axis=1)[:, 0]
    return Rollout(
        tokens=xp.where(place < 0, before, ids).astype(xp.int32),
        mask=(place < 0) | in_completion,
        completion_mask=in_completion,
        logps=xp.where(in_completion, xp.take_along_axis(logps, index, axis=1), 0.0),
        truncated=~((is_eos(last, eos_ids, xp=xp) | stopped) & (produced > 0)),
    )


def is_eos(token: HostOrDevice, eos_ids: tuple[int, ...], *, xp: types.ModuleType = jnp) -> Any:
    """Which of these tokens [B] end a completion; bool [B]."""
    return (token[:, None] == xp.asarray(eos_ids, xp.int32)[None, :]).any(axis=1)
