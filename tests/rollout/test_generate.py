"""Generation as one function: against the forward pass, groups, limits, stops, layouts."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import init_model
from rlhf_jax.rollout import SamplingParams, generate
from rlhf_jax.rollout.generate import windows
from tests.models.tiny import noisy, ragged, tiny

PAD, EOS = 63, (5, 17, 41, 62)
TOKENS, MASK = ragged(4, 9)
LENGTHS = MASK.sum(1).astype(np.int32)


@functools.cache
def policy(family="qwen2", **options):
    sizes = {"num_hidden_layers": 2, "max_window_layers": 1} if family == "qwen2" else {}
    model, params = init_model(
        tiny(family, max_position_embeddings=256, **sizes), jax.random.key(0), **options
    )
    return model, noisy(params)


@functools.cache
def compiled(model, **options):
    settings = {
        "sampling": SamplingParams(1.3),
        "max_new_tokens": 12,
        "eos_id": EOS,
        "pad_id": PAD,
        "chunk": 4,
        **options,
    }

    def call(params, prompts, lengths, key, limits):
        return generate(model, params, prompts, lengths, key, limits=limits, **settings)

    return jax.jit(call)


def run(prompts=TOKENS, lengths=LENGTHS, *, start=None, key=1, limits=None, **options):
    model, params = start or policy()
    limits = (
        np.full(len(prompts) * options.get("group_size", 1), 99, np.int32)
        if limits is None
        else limits
    )
    out = compiled(model, **options)(params, prompts, lengths, jax.random.key(key), limits)
    return jax.tree.map(np.asarray, out)


def completions(out):
    return [row[mask].tolist() for row, mask in zip(out.tokens, out.completion_mask, strict=True)]


@pytest.fixture(scope="module")
def grouped():
    return run(group_size=3)


def recomputed_error(model, params, out, temperature):
    """Largest and mean difference to the log-probabilities that training computes."""
    logps = np.asarray(model.token_logps(params, out.tokens, out.mask, temperature=temperature)[0])
    differences = np.abs(logps - out.logps)[out.completion_mask]
    return differences.max(), differences.mean()


def test_log_probabilities_are_those_of_the_trainer(grouped):
    largest, mean = recomputed_error(*policy(), grouped, 1.3)
    assert largest < 1e-4 and mean < 1e-5
    assert (grouped.logps[~grouped.completion_mask] == 0).all() and np.isfinite(grouped.logps).all()


def test_rows_are_prompt_completion_padding(grouped):
    rows = np.repeat(np.arange(4), 3)
    produced = grouped.completion_mask.sum(1)
    for row, prompt in enumerate(rows):
        start, stop = LENGTHS[prompt], LENGTHS[prompt] + produced[row]
        assert (grouped.tokens[row, :start] == TOKENS[prompt, :start]).all()
        assert grouped.mask[row].nonzero()[0].tolist() == list(range(stop))
        assert grouped.completion_mask[row].nonzero()[0].tolist() == list(range(start, stop))
        assert (grouped.tokens[row, stop:] == PAD).all()
        ids = grouped.tokens[row, start:stop].tolist()
        assert not set(EOS) & set(ids[:-1])
        assert grouped.truncated[row] == (ids[-1] not in EOS)
        assert len(ids) == 12 or not grouped.truncated[row]
    assert len(set(EOS) & {ids[-1] for ids in completions(grouped)}) > 1, "several stop ids occur"
    assert grouped.truncated.any()


def test_a_group_shares_what_repeated_prompts_compute(grouped):
    repeated = run(np.repeat(TOKENS, 3, axis=0), np.repeat(LENGTHS, 3))
    assert completions(repeated) == completions(grouped)
    assert np.abs(repeated.logps - grouped.logps).max() < 1e-4
    first = completions(grouped)[:3]
    assert len({tuple(ids) for ids in first}) > 1, "completions of a group differ"


def test_neither_chunk_nor_layer_loop_nor_padding_changes_a_token(grouped):
    wide = np.where(MASK, TOKENS, 10**6)
    assert completions(
        run(wide, start=policy(layers="scan"), group_size=3, chunk=5)
    ) == completions(grouped)
    assert completions(run(group_size=3, key=2)) != completions(grouped)


def test_limits_of_rows(grouped):
    limits = np.array([1, 2, 5, 12, 0, 3, 12, 99, 4, 7, 8, 12], np.int32)
    out = run(group_size=3, limits=limits)
    expected = [
        ids[: min(limit, 12)] for ids, limit in zip(completions(grouped), limits, strict=True)
    ]
    assert completions(out) == expected
    assert out.truncated.tolist() == [not ids or ids[-1] not in EOS for ids in expected]


@pytest.mark.slow
def test_one_token_one_prompt_of_one_token():
    out = run(TOKENS[:1, :1], LENGTHS[:1] * 0 + 1, max_new_tokens=1, eos_id=())
    assert (
        out.tokens.shape == (1, 2)
        and out.completion_mask.tolist() == [[False, True]]
        and out.truncated.tolist() == [True]
    )
    assert recomputed_error(*policy(), out, 1.3)[0] < 1e-5


@pytest.mark.slow
def test_the_cache_grows():
    model, params = policy("mistral")
    options = {"max_new_tokens": 140, "eos_id": (), "sampling": SamplingParams(0.0)}
    out = run(TOKENS[:2], LENGTHS[:2], start=(model, params), limits=np.full(2, 140), **options)
    logits = np.asarray(model.logits(params, out.tokens, out.mask))
    likeliest = logits.argmax(-1)[:, :-1]
    assert (likeliest == out.tokens[:, 1:])[out.completion_mask[:, 1:]].all()
    assert out.completion_mask.sum() == 280


@pytest.mark.slow
def test_seeds_and_parameters_under_vmap():
    model, params = policy()
    both = jax.tree.map(lambda p: jnp.stack([p, 0.5 * p]), params)
    keys = jax.random.split(jax.random.key(9), 2)
    options = {
        "sampling": SamplingParams(1.3),
        "max_new_tokens": 12,
        "eos_id": 3,
        "pad_id": PAD,
        "chunk": 4,
        "group_size": 2,
    }
    call = functools.partial(generate, model, **options)
    out = jax.jit(jax.vmap(lambda params, key: call(params, TOKENS, LENGTHS, key)))(both, keys)
    alone = jax.jit(call)
    for seed in range(2):
        params = jax.tree.map(operator.itemgetter(seed), both)
        single = alone(params, TOKENS, LENGTHS, keys[seed])
        assert (out.tokens[seed] == single.tokens).all() and (out.mask[seed] == single.mask).all()
        assert np.abs(out.logps[seed] - single.logps).max() < 1e-4


@pytest.mark.slow
def test_bfloat16_computes_and_is_near_its_trainer():
    model, params = policy(compute_dtype="bfloat16")
    out = run(start=(model, params), max_new_tokens=6)
    assert out.logps.dtype == np.float32
    assert recomputed_error(model, params, out, 1.3)[1] < 5e-2


def test_sizes_of_the_cache():
    assert (
        windows(12, 16) == [16]
        and windows(65, 16) == [64]
        and windows(300, 16) == [64, 128, 256, 304]
        and windows(1, 4) == []
    )
    assert windows(100, 48) == [96, 144]


def test_errors():
    model, params = init_model(tiny("gpt2"), jax.random.key(0))
    with pytest.raises(
        ValueError, match="rows of 41 tokens exceed the model's 40 learned positions"
    ):
        run(start=(model, params), max_new_tokens=32)
    model, params = init_model(tiny("qwen2"), jax.random.key(0), head="reward")
    assert model.prefill is None and model.decode is None
    with pytest.raises(ValueError, match="no language-model head"):
        run(start=(model, params))
