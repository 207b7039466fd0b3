"""Choosing a token: the distribution, the filters, the log-probability."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.rollout import SamplingParams
from rlhf_jax.rollout.sampling import check_sampling, choose, row_bits, sampling_steps
from tests.conftest import quick

DRAWS = 20_000


@functools.partial(jax.jit, static_argnames="steps")
def draw(logits, bits, sampling, steps):
    return choose(
        jnp.broadcast_to(logits[None], (bits.shape[0], logits.shape[0])), bits, sampling, steps
    )


def bits_of(rows, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 2**32, (rows, 2), dtype=np.uint32))


def filtered(logits, sampling):
    """Probabilities after temperature, top-k, top-p and min-p, by sorting in float64."""
    scaled = logits.astype(np.float64) / sampling.temperature
    probs = np.exp(scaled - scaled.max())
    probs /= probs.sum()
    if sampling.top_k:
        probs[probs < np.sort(probs)[-sampling.top_k]] = 0
        probs /= probs.sum()
    if sampling.top_p < 1:
        order = np.argsort(-probs)
        before = np.cumsum(probs[order]) - probs[order]
        probs[order[before >= sampling.top_p]] = 0
        probs /= probs.sum()
    probs[probs < sampling.min_p * probs.max()] = 0
    return probs / probs.sum()


CASES = [
    SamplingParams(),
    SamplingParams(0.6),
    SamplingParams(1.7),
    SamplingParams(top_k=7),
    SamplingParams(top_p=0.8),
    SamplingParams(min_p=0.2),
    SamplingParams(1.3, top_p=0.9, top_k=20, min_p=0.05),
]


@pytest.mark.parametrize("sampling", quick(CASES, (CASES[0], CASES[-1])), ids=str)
def test_distribution_by_chi_square(sampling):
    logits = np.random.default_rng(1).standard_normal(300).astype(np.float32) * 2
    tokens, logps = draw(logits, bits_of(DRAWS), sampling, sampling_steps(sampling))
    counts, expected = (
        np.bincount(np.asarray(tokens), minlength=300),
        DRAWS * filtered(logits, sampling),
    )
    assert counts[expected == 0].sum() == 0
    common = expected >= 5
    degrees = common.sum() - (0 if (expected[~common] > 0).any() else 1)
    rest = [counts[~common].sum() - expected[~common].sum(), expected[~common].sum()]
    statistic = ((counts[common] - expected[common]) ** 2 / expected[common]).sum()
    statistic += rest[0] ** 2 / rest[1] if rest[1] > 0 else 0
    assert abs(statistic - degrees) < 4 * np.sqrt(2 * degrees)
    untruncated = jax.nn.log_softmax(logits / sampling.temperature)
    assert np.abs(logps - untruncated[np.asarray(tokens)]).max() < 1e-5


@pytest.mark.parametrize("sampling", CASES[3:], ids=str)
def test_filters_are_exact_with_many_ties_and_when_everything_is_traced(sampling):
    logits = np.round(np.random.default_rng(2).standard_normal(500) * 3).astype(
        np.float32
    ) + 0.01 * (np.arange(500) % 3)
    traced = SamplingParams(*(jnp.asarray(value) for value in sampling))
    every = ("greedy", "sample", "top_k", "top_p", "min_p")
    tokens = draw(logits, bits_of(5000), traced, every)[0]
    probs = filtered(logits, sampling)
    # transformers cuts ties by position, we keep them
    kept = {float(value) for value in logits[probs > 0]}
    assert {float(value) for value in logits[np.asarray(tokens)]} == kept
    same = draw(logits, bits_of(5000), sampling, sampling_steps(sampling))[0]
    assert (tokens == same).all()


def test_never_a_token_of_probability_zero():
    logits = np.full(1000, -np.inf, np.float32)
    logits[[3, 700, 999]] = [0.0, -30.0, -1.0]
    extremes = jnp.asarray([[a, b] for a in (0, 2**32 - 1) for b in (0, 2**32 - 1)], jnp.uint32)
    for bits in (extremes, bits_of(4000)):
        tokens, logps = draw(logits, bits, SamplingParams(), ("sample",))
        assert set(np.asarray(tokens).tolist()) <= {3, 700, 999} and np.isfinite(logps).all()


def test_greedy_takes_the_first_of_equals_and_reads_no_bits():
    logits = np.zeros((2, 260), np.float32)
    logits[0, [140, 12, 250]] = 5.0
    tokens, logps = choose(jnp.asarray(logits), bits_of(2), SamplingParams(0.0), ("greedy",))
    assert tokens.tolist() == [12, 0]
    assert np.allclose(logps, jax.nn.log_softmax(logits)[[0, 1], [12, 0]], atol=1e-6)
    traced = SamplingParams(jnp.asarray(0.0))
    mixed, again = choose(jnp.asarray(logits), bits_of(2), traced, ("greedy", "sample"))
    assert mixed.tolist() == [12, 0] and np.allclose(logps, again)


def test_steps_follow_from_the_numbers():
    assert sampling_steps(SamplingParams()) == ("sample",)
    assert sampling_steps(SamplingParams(0.0, top_k=5)) == ("greedy",)
    assert sampling_steps(SamplingParams(0.5, top_p=0.9, min_p=0.1)) == ("sample", "top_p", "min_p")
    seen = []
    jax.jit(lambda t, p: seen.append(sampling_steps(SamplingParams(t, top_p=p))))(1.0, 1.0)
    assert seen == [("greedy", "sample", "top_p")]


def test_bits_depend_on_row_and_index_only():
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(4))
    whole = row_bits(keys, jnp.array([5, 6, 7, 8]))
    assert (row_bits(keys[2:3], jnp.array([7])) == whole[2:3]).all()
    assert len(np.unique(np.asarray(whole))) == 8


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (SamplingParams(-0.1), "temperature=-0.1"),
        (SamplingParams(float("nan")), "temperature=nan"),
        (SamplingParams(top_p=0.0), "top_p=0.0"),
        (SamplingParams(top_p=1.1), "top_p=1.1"),
        (SamplingParams(top_k=-1), "top_k=-1"),
        (SamplingParams(min_p=1.0), "min_p=1.0"),
    ],
)
def test_numbers_out_of_range(sampling, message):
    with pytest.raises(ValueError, match=message):
        check_sampling(sampling)
