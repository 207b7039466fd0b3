"""A model of a few lines and batches for it: what the contract tests run algorithms on."""

import functools

import jax
import jax.numpy as jnp

from rlhf_jax.ops import token_entropy, token_logps
from rlhf_jax.types import Model, PairBatch, PolicyBatch, TokenBatch

VOCAB, WIDTH = 17, 8
PAD = VOCAB - 1
"""Used on padding and nowhere else, so that its embedding shows whether padding reaches the gradient."""


def make_model(head=True):
    """Running mean of embeddings, tanh, unembedding: causal, and every earlier token matters."""

    def hidden(params, tokens, mask, *, segment_ids=None):
        embedded = params["embed"]["embedding"][tokens].astype(jnp.float32)
        steps = jnp.arange(1, tokens.shape[1] + 1, dtype=jnp.float32)[None, :, None]
        return jnp.tanh(jnp.cumsum(embedded, axis=1) / steps)

    def logits(params, tokens, mask, *, segment_ids=None):
        return hidden(params, tokens, mask) @ params["unembed"]["kernel"].astype(jnp.float32).T

    def logps(params, tokens, mask, *, segment_ids=None, scored=None, temperature=1.0):
        scaled = logits(params, tokens, mask) / temperature
        wanted = jnp.ones(tokens.shape, bool)
        if scored is not None:
            wanted = (scored[:, None, :] == jnp.arange(tokens.shape[1])[None, :, None]).any(axis=2)
        return tuple(jnp.where(wanted, x, 0.0) for x in (token_logps(scaled, tokens), token_entropy(scaled)))

    def scores(params, tokens, mask, *, segment_ids=None):
        return hidden(params, tokens, mask) @ params["score"]["kernel"].astype(jnp.float32)

    return Model(config=None, hidden=hidden, logits=logits, token_logps=logps, scores=scores if head else None)


@functools.partial(jax.jit, static_argnames="dtype")
def make_params(key, dtype=jnp.float32):
    keys = jax.random.split(key, 3)
    return {
        "embed": {"embedding": jax.random.normal(keys[0], (VOCAB, WIDTH), dtype)},
        "unembed": {"kernel": jax.random.normal(keys[1], (VOCAB, WIDTH), dtype)},
        "score": {"kernel": jax.random.normal(keys[2], (WIDTH,), dtype)},
    }


def ragged(key, rows, width):
    """Right-padded tokens with prompts of 2..3 and completions of 1..width-3 tokens: (tokens, mask, completion_mask)."""
    keys = jax.random.split(key, 3)
    prompts = jax.random.randint(keys[0], (rows, 1), 2, 4)
    lengths = prompts + jax.random.randint(keys[1], (rows, 1), 1, width - 3)
    positions = jnp.arange(width)[None, :]
    mask = jnp.broadcast_to(positions, (rows, width)) < lengths
    tokens = jnp.where(mask, jax.random.randint(keys[2], (rows, width), 0, PAD), PAD)
    return tokens, mask, mask & (jnp.broadcast_to(positions, (rows, width)) >= prompts)


@functools.partial(jax.jit, static_argnames=("kind", "rows", "width"))
def make_batch(kind, key, rows=16, width=10):
    """A batch as the loop would hand it over, before scoring. The last row (or pair) only completes the shape."""
    if kind == "pairs":
        tokens, mask, completion = (x.reshape(rows, 2, width) for x in ragged(key, rows * 2, width))
        valid = jnp.arange(rows) < rows - 1
        keep = valid[:, None, None]
        return PairBatch(jnp.where(keep, tokens, PAD), mask & keep, completion & keep, valid)
    tokens, mask, completion = ragged(key, rows, width)
    keep = (jnp.arange(rows) < rows - 1)[:, None]
    tokens, mask, completion = jnp.where(keep, tokens, PAD), mask & keep, completion & keep
    if kind == "text":
        return TokenBatch(tokens, mask, completion)
    keys = jax.random.split(key, 4)
    rewards = jax.random.normal(keys[0], (rows,)).at[-1].set(jnp.nan).at[1].set(jnp.nan)
    noise = 0.3 * jax.random.normal(keys[1], (3, rows, width))
    return PolicyBatch(
        tokens,
        mask,
        completion,
        rewards=rewards,
        truncated=jnp.arange(rows) % 5 == 0,
        sampler_logps=jnp.where(completion, -2.0 + noise[0], 0.0),
        old_logps=jnp.where(completion, -2.0 + noise[1], 0.0),
        ref_logps=jnp.where(completion, -2.0 + noise[2], 0.0),
        values=jax.random.normal(keys[2], (rows, width)),
    )
