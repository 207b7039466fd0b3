"""A model of a few lines and batches for it: what the contract tests run algorithms on."""

import jax.numpy as jnp
import numpy as np

from rlhf_jax.ops import token_entropy, token_logps
from rlhf_jax.types import Model, PairBatch, PolicyBatch, TokenBatch, UnpairedBatch

VOCAB, WIDTH = 17, 8
PAD = VOCAB - 1
"""Used on padding and nowhere else, so that its embedding shows whether padding reaches the
gradient."""


def make_model(head=True):
    """Running mean of embeddings, tanh, unembedding: causal, and every earlier token matters."""

    def hidden(params, tokens, mask, *, segment_ids=None):
        embedded = params["embed"]["embedding"][tokens].astype(jnp.float32)
        steps = jnp.arange(1, tokens.shape[1] + 1, dtype=jnp.float32)[None, :, None]
        return jnp.tanh(jnp.cumsum(embedded, axis=1) / steps)

    def logits(params, tokens, mask, *, segment_ids=None):
        return hidden(params, tokens, mask) @ params["unembed"]["kernel"].astype(jnp.float32).T

    def logps(
        params, tokens, mask, *, segment_ids=None, scored=None, temperature=1.0, entropy=True
    ):
        scaled = logits(params, tokens, mask) / temperature
        wanted = jnp.ones(tokens.shape, bool)
        if scored is not None:
            wanted = (scored[:, None, :] == jnp.arange(tokens.shape[1])[None, :, None]).any(axis=2)
        spread = jnp.where(wanted, token_entropy(scaled), 0.0) if entropy else None
        return jnp.where(wanted, token_logps(scaled, tokens), 0.0), spread

    def scores(params, tokens, mask, *, segment_ids=None):
        return hidden(params, tokens, mask) @ params["score"]["kernel"].astype(jnp.float32)

    return Model(
        config=None,
        hidden=hidden,
        logits=logits,
        token_logps=logps,
        scores=scores if head else None,
    )


def make_params(seed, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    shapes = {
        "embed": ("embedding", (VOCAB, WIDTH)),
        "unembed": ("kernel", (VOCAB, WIDTH)),
        "score": ("kernel", (WIDTH,)),
    }
    return {
        name: {leaf: jnp.asarray(rng.normal(size=shape), dtype)}
        for name, (leaf, shape) in shapes.items()
    }


def ragged(rng, rows, width):
    """Right-padded tokens with prompts of 2..3 and completions of 1..width-4 tokens: (tokens, mask,
    completion_mask)."""
    prompts = rng.integers(2, 4, (rows, 1))
    positions = np.arange(width)[None, :]
    mask = positions < prompts + rng.integers(1, width - 3, (rows, 1))
    return (
        np.where(mask, rng.integers(0, PAD, (rows, width)), PAD),
        mask,
        mask & (positions >= prompts),
    )


def make_batch(kind, seed=1, rows=16, width=10):
    """A batch as the loop would hand it over, before scoring. The last row (or pair) only completes
    the shape."""
    rng = np.random.default_rng(seed)
    sides = 2 if kind in ("pairs", "unpaired") else 1
    tokens, mask, completion = ragged(rng, rows * sides, width)
    mask[-sides:], completion[-sides:], tokens[-sides:] = False, False, PAD
    if sides == 2:
        arrays = [jnp.asarray(x).reshape(rows, 2, width) for x in (tokens, mask, completion)]
        valid = jnp.arange(rows) < rows - 1
        if kind == "pairs":
            return PairBatch(*arrays, valid=valid)
        return UnpairedBatch(
            *arrays,
            valid=valid,
            label=valid & (jnp.arange(rows) % 3 > 0),
            unrelated_logps=jnp.asarray(rng.normal(-6.0, 1.0, rows), jnp.float32),
        )
    arrays = [jnp.asarray(x) for x in (tokens, mask, completion)]
    if kind == "text":
        return TokenBatch(*arrays)
    rewards = rng.normal(size=rows)
    rewards[[1, -1]] = np.nan
    sampler, old, ref = (
        jnp.asarray(np.where(completion, rng.normal(-2.0, 0.3, (rows, width)), 0.0), jnp.float32)
        for _ in "123"
    )
    return PolicyBatch(
        *arrays,
        rewards=jnp.asarray(rewards, jnp.float32),
        truncated=jnp.arange(rows) % 5 == 0,
        sampler_logps=sampler,
        old_logps=old,
        ref_logps=ref,
        values=jnp.asarray(rng.normal(size=(rows, width)), jnp.float32),
    )
