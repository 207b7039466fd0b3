"""From logits to a token: temperature, top-k, top-p, min-p, greedy; 64 random bits a token.

The inverse of the cumulative distribution takes two uniform numbers per token instead of Gumbel
noise for the whole vocabulary, which on a CPU is half the cost of a decoding step; nothing is
sorted.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from rlhf_jax.fields import documented
from rlhf_jax.types import Key

FILTERS = ("top_k", "top_p", "min_p")
_BLOCK = 128


@documented
class SamplingParams(NamedTuple):
    """How the next token is chosen: numbers or traced scalars, whose values compile nothing.

    The distribution is ``softmax(logits / temperature)``, cut first to the `top_k` likeliest
    tokens, then to the fewest likeliest of these whose share reaches `top_p`, then to those at
    least `min_p` times as likely as the likeliest: the order and the meaning of transformers.
    Tokens that are exactly as likely as the last one kept are kept too.
    """

    temperature: float | Float[Array, ""] = 1.0
    """0 is greedy: the likeliest token (the first of equals); the filters then do nothing."""
    top_p: float | Float[Array, ""] = 1.0
    """1 is off."""
    top_k: int | Int[Array, ""] = 0
    """0 is off."""
    min_p: float | Float[Array, ""] = 0.0
    """0 is off."""


def check_sampling(sampling: SamplingParams) -> None:
    """Refuses numbers out of range, in one line.

    Args:
      sampling: with numbers, not traced values.

    Raises:
      ValueError: names the parameter and its value.
    """
    if not float(sampling.temperature) >= 0:
        raise ValueError(f"temperature={sampling.temperature} must not be negative (0 is greedy)")
    if not 0 < float(sampling.top_p) <= 1:
        raise ValueError(f"top_p={sampling.top_p} must be above 0 and at most 1 (1 is off)")
    if int(sampling.top_k) < 0:
        raise ValueError(f"top_k={sampling.top_k} must not be negative (0 is off)")
    if not 0 <= float(sampling.min_p) < 1:
        raise ValueError(f"min_p={sampling.min_p} must be at least 0 and below 1 (0 is off)")


def sampling_steps(sampling: SamplingParams) -> tuple[str, ...]:
    """Which steps of `choose` these need: the part of them that a program is compiled for.

    Args:
      sampling: with numbers; a traced value needs its step whatever it turns out to be.

    Returns:
      A subset of ("greedy", "sample", "top_k", "top_p", "min_p").
    """
    neutral = {"top_p": 1, "top_k": 0, "min_p": 0}
    temperature = sampling.temperature
    if isinstance(temperature, jax.core.Tracer):
        chosen = ["greedy", "sample"]
    elif float(temperature) == 0.0:
        return ("greedy",)
    else:
        chosen = ["sample"]
    values = sampling._asdict()
    return (
        *chosen,
        *(
            f
            for f in FILTERS
            if isinstance(values[f], jax.core.Tracer) or float(values[f]) != neutral[f]
        ),
    )


def row_bits(row_keys: Key, index: Int[Array, " B"]) -> UInt32[Array, "B 2"]:
    """The random bits with which every row draws one token.

    Args:
      row_keys: [B], one key per row, `fold_in(key, row)`.
      index: which token of its completion each row draws.

    Returns:
      Bits that depend on the row's key and the index only: not on the batch, and not on when the
      token is drawn.
    """
    return jax.vmap(lambda key, i: jax.random.bits(jax.random.fold_in(key, i), (2,)))(
        row_keys, index
    )


def choose(
    logits: Float[Array, "B V"],
    bits: UInt32[Array, "B 2"],
    sampling: SamplingParams,
    steps: Sequence[str],
    missing_ids: tuple[int, ...] = (),
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """Draws one token per row.

    Args:
      logits: float32; -inf is never drawn.
      bits: from `row_bits`; not read when greedy.
      sampling: how.
      steps: from `sampling_steps`.
      missing_ids: ids that no token of the tokenizer has (the embedding has more rows, or the ids
        have gaps): never drawn, as if their logits were -inf, before any filter. Static.

    Returns:
      (tokens, their log-probability in nats under ``softmax(logits / temperature)`` over *all* ids,
      before `missing_ids`, top-k, top-p and min-p are cut away: this is what the trainer computes
      for the same token. Greedy: at temperature 1).
    """
    rows, vocab = logits.shape
    # At temperature 0 nothing may be divided by it; the greedy branch below does not read it.
    temperature = jnp.asarray(sampling.temperature, logits.dtype)
    if "greedy" in steps:
        temperature = jnp.where(temperature == 0, 1, temperature)
    everything = logits / temperature
    scaled = everything
    if missing_ids:
        scaled = jnp.where(_has_token(vocab, missing_ids), everything, -jnp.inf)
    # The vocabulary as a table of 128 columns: token = row * 128 + column.
    blocks = -(-vocab // _BLOCK)
    short = blocks * _BLOCK - vocab
    padded = scaled
    if short:
        padded = jnp.pad(scaled, ((0, 0), (0, short)), constant_values=-jnp.inf)
    # reduced over its middle axis: CPUs vectorise that
    table = padded.reshape(rows, blocks, _BLOCK)
    # Weights relative to the likeliest token, which weighs 1: exponents are never positive.
    peak = table.max(axis=1).max(axis=1)
    weights = jnp.exp(table - peak[:, None, None])
    columns = weights.sum(axis=1)
    log_total = jnp.log(columns.sum(axis=1))
    if missing_ids:  # the few logits that were cut away still belong to the softmax
        cut = jnp.take(everything, jnp.asarray(missing_ids, jnp.int32), axis=1)
        log_total = jnp.logaddexp(log_total, jax.nn.logsumexp(cut - peak[:, None], axis=1))
    if "sample" in steps:
        # Filters take weights away after the log-normaliser is known: the reported log-probability
        # stays that of the whole softmax, as the trainer computes it.
        if set(steps) & set(FILTERS):
            weights = jnp.where(
                weights >= _threshold(weights, sampling, steps)[:, None, None], weights, 0.0
            )
            columns = weights.sum(axis=1)
        # By the inverse of the cumulative distribution, first the column, then the row in it: two
        # short sums instead of one over the vocabulary.
        uniforms = (bits >> 8).astype(logits.dtype) * 2.0**-24
        column = _first_beyond(columns, uniforms[:, 0])
        inside = jnp.take_along_axis(weights, column[:, None, None], axis=2)[:, :, 0]
        tokens = _first_beyond(inside, uniforms[:, 1]) * _BLOCK + column
    if "greedy" in steps:
        ids = jnp.arange(blocks * _BLOCK, dtype=jnp.int32).reshape(1, blocks, _BLOCK)
        # The first of equals, as argmax: the smallest id at the peak.
        likeliest = jnp.where(table == peak[:, None, None], ids, vocab).min(axis=1).min(axis=1)
        tokens = (
            jnp.where(jnp.asarray(sampling.temperature) == 0, likeliest, tokens)
            if "sample" in steps
            else likeliest
        )
    # log softmax(logits / temperature) of the token, of the numbers that are at hand anyway.
    taken = jnp.take_along_axis(scaled, tokens[:, None], axis=1)[:, 0]
    return tokens, taken - peak - log_total


def _has_token(vocab: int, missing_ids: tuple[int, ...]) -> Bool[np.ndarray, " V"]:
    """A constant of the program: which ids may be drawn."""
    allowed = np.ones(vocab, bool)
    allowed[list(missing_ids)] = False
    return allowed


def _first_beyond(weights: Float[Array, "B C"], uniform: Float[Array, " B"]) -> Int[Array, " B"]:
    """Index i with probability ``weights[i] / sum(weights)``, never of weight 0 by rounding."""
    # The first partial sum beyond u * total, u < 1; where rounding leaves none, the last one that
    # has any weight.
    sums = jnp.cumsum(weights, axis=1)
    beyond = (sums > (uniform * sums[:, -1])[:, None]) & (weights > 0)
    last = weights.shape[1] - 1 - jnp.argmax((weights > 0)[:, ::-1], axis=1)
    return jnp.where(beyond.any(axis=1), jnp.argmax(beyond, axis=1), last).astype(jnp.int32)


def _threshold(
    weights: Float[Array, "B R C"], sampling: SamplingParams, steps: Sequence[str]
) -> Float[Array, " B"]:
    """The smallest weight that the filters keep; the largest weight is 1."""
    lowest = jnp.zeros(weights.shape[0], weights.dtype)
    if "top_k" in steps:
        # Off is keeping all: one program, whatever a traced number turns out to be.
        wanted = jnp.where(
            jnp.asarray(sampling.top_k) <= 0, weights[0].size, sampling.top_k
        ).astype(weights.dtype)
        lowest = _largest_keeping(
            lambda kept: kept.astype(weights.dtype), weights, jnp.broadcast_to(wanted, lowest.shape)
        )
    if "top_p" in steps:
        share = jnp.asarray(sampling.top_p, weights.dtype)
        # top-p is a share of what top-k has left, as in transformers.
        within = jnp.where(weights >= lowest[:, None, None], weights, 0.0)
        cut = _largest_keeping(
            lambda kept: jnp.where(kept, within, 0.0), within, share * within.sum((1, 2))
        )
        lowest = jnp.where(share >= 1, lowest, jnp.maximum(lowest, cut))
    if "min_p" in steps:
        # Relative to the likeliest, which weighs 1: min_p is the threshold itself.
        lowest = jnp.maximum(lowest, jnp.asarray(sampling.min_p, weights.dtype))
    return lowest


def _largest_keeping(
    amount, weights: Float[Array, "B R C"], wanted: Float[Array, " B"]
) -> Float[Array, " B"]:
    """The largest weight w for which the tokens of weight w or more amount to what is wanted.

    Non-negative floats are ordered as their bits are, so 30 halvings find the exact number.
    """

    def reaches(threshold: Int[Array, " B"]) -> Bool[Array, " B"]:
        bound = jax.lax.bitcast_convert_type(threshold, jnp.float32).astype(weights.dtype)
        return amount(weights >= bound[:, None, None]).sum(axis=1).sum(axis=1) >= wanted

    # From the highest bit down: a bit stays where the tokens above still amount to enough.
    def halve(step: Int[Array, ""], threshold: Int[Array, " B"]) -> Int[Array, " B"]:
        trial = threshold | (jnp.int32(1) << (29 - step))
        return jnp.where(reaches(trial), trial, threshold)

    found = jax.lax.fori_loop(0, 30, halve, jnp.zeros(weights.shape[0], jnp.int32))
    return jax.lax.bitcast_convert_type(found, jnp.float32).astype(weights.dtype)
