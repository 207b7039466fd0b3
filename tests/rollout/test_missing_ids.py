"""Ids without a token are never sampled; reported log-probabilities stay the trainer's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import init_model
from rlhf_jax.rollout import SamplingParams, generate, make_generator
from rlhf_jax.rollout.sampling import choose, sampling_steps
from tests.models.tiny import noisy, ragged, tiny
from tests.rollout.test_sampling import CASES, DRAWS, bits_of, filtered

VOCAB = 300
# the first id, gaps, and rows of the embedding behind the last token
MISSING = (0, 17, 18, 130, *range(290, 300))
GAPS = (5, 6, 20, *range(60, 64))
PROMPTS, MASK = ragged(2, 6)


@functools.partial(jax.jit, static_argnames=("steps", "missing"))
def draw(logits, bits, sampling, steps, missing):
    return choose(
        jnp.broadcast_to(logits[None], (bits.shape[0], VOCAB)), bits, sampling, steps, missing
    )


SOME = [
    # the plain draw, all filters at once, and greedy; one filter at a time is slow
    CASES[0],
    *(pytest.param(case, marks=pytest.mark.slow) for case in CASES[1:-1]),
    CASES[-1],
    SamplingParams(0.0),
]


@pytest.mark.parametrize("sampling", SOME, ids=str)
def test_only_tokens_are_drawn(sampling):
    """Also where nearly all the mass lies on them, and all else underflows beside it."""
    for likely in (0.0, 30.0, 3000.0):
        logits = np.random.default_rng(1).standard_normal(VOCAB).astype(np.float32) * 2
        logits[list(MISSING)] += likely
        tokens, logps = map(
            np.asarray,
            draw(jnp.asarray(logits), bits_of(DRAWS), sampling, sampling_steps(sampling), MISSING),
        )
        assert not np.isin(tokens, MISSING).any()
        scaled = logits.astype(np.float64) / (sampling.temperature or 1.0)
        whole = scaled - scaled.max() - np.log(np.exp(scaled - scaled.max()).sum())
        np.testing.assert_allclose(logps, whole[tokens], rtol=1e-6, atol=1e-5)
        left, places = np.delete(logits, MISSING), np.delete(np.arange(VOCAB), MISSING)
        if sampling.temperature == 0:
            assert (tokens == places[left.argmax()]).all()
        else:  # the filters see what is left
            share = np.bincount(tokens, minlength=VOCAB)[places] / DRAWS
            assert np.abs(share - filtered(left, sampling)).max() < 0.01


@functools.cache
def policy():
    config = tiny("qwen2", max_position_embeddings=64, num_hidden_layers=1, max_window_layers=0)
    model, params = init_model(config, jax.random.key(0))
    return model, noisy(params)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampling",
    [pytest.param(SamplingParams(1.5), marks=pytest.mark.slow), SamplingParams(0.0)],
    ids=str,
)
def test_rollouts_hold_tokens_only(sampling):
    model, params = policy()
    options = {"max_new_tokens": 24, "pad_id": 0, "group_size": 8}
    key, lengths = jax.random.key(1), MASK.sum(1)
    plain = generate(model, params, PROMPTS, lengths, key, sampling=sampling, eos_id=(), **options)
    out = generate(
        model,
        params,
        PROMPTS,
        lengths,
        key,
        sampling=sampling,
        eos_id=(),
        missing_ids=GAPS,
        **options,
    )
    if sampling.temperature:
        assert np.isin(plain.tokens[plain.completion_mask], GAPS).any(), "nothing would be left out"
    assert not np.isin(out.tokens[out.completion_mask], GAPS).any()
    scored, _ = model.token_logps(
        params, out.tokens, out.mask, temperature=sampling.temperature or 1.0
    )
    assert np.abs(np.where(out.completion_mask, scored - out.logps, 0)).max() < 1e-5
    engine = make_generator(
        model,
        mesh=None,
        eos_ids=(),
        prompt_buckets=(6,),
        slots=4,
        chunk=8,
        missing_ids=(*GAPS, 64, 1000),
        **options,
    )
    slots, _ = engine(params, PROMPTS, lengths, key, sampling)
    assert (slots.tokens == np.asarray(out.tokens)).all()
