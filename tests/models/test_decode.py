"""Prefill and decode against the forward pass, and the cache between them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import init_model
from rlhf_jax.models.cache import KVCache, Segment, joint_attention
from tests.models.tiny import FAMILY_NAMES, noisy, ragged, tiny

TOKENS, MASK = ragged(3, 20)
PROMPT = np.array([7, 3, 1])
STEPS = 10


def forced(model, params, ring, first_slot):
    """Logits of `STEPS` given tokens after the prompts, one by one through a ring."""
    row_length = TOKENS.shape[1]
    prompts = TOKENS[:, : PROMPT.max()]
    following = np.stack(
        [row[start : start + STEPS] for row, start in zip(TOKENS, PROMPT, strict=True)]
    )
    first, prompt_cache = model.prefill(params, prompts, PROMPT, row_length=row_length)

    def step(cache, item):
        index, tokens = item
        position = {
            "prompt_lengths": PROMPT,
            "num_generated": jnp.full(3, index),
            "slot": (first_slot + index) % ring,
        }
        logits, cache = model.decode(
            params, tokens, cache, prompt_cache, row_length=row_length, **position
        )
        return cache, logits

    _, rest = jax.lax.scan(step, prompt_cache.empty(3, ring), (jnp.arange(STEPS), following.T))
    return jnp.concatenate([first[None], rest]).swapaxes(0, 1)


def check(model, params, ring, first_slot):
    logits = np.asarray(
        jax.jit(functools.partial(forced, model, ring=ring, first_slot=first_slot))(params)
    )
    whole = np.asarray(jax.jit(model.logits)(params, TOKENS, np.ones_like(MASK)))
    expected = np.stack(
        [row[start - 1 : start + STEPS] for row, start in zip(whole, PROMPT, strict=True)]
    )
    assert logits.dtype == np.float32 and np.abs(expected).max() > 1
    assert np.abs(logits - expected).max() < 2e-4


CASES = [(family, layers) for family in FAMILY_NAMES for layers in ("unroll", "scan")]
FAST = [("gemma3_text", "scan"), ("qwen2", "unroll")]


@pytest.mark.parametrize(
    ("family", "layers"),
    [pytest.param(*case, marks=() if case in FAST else pytest.mark.slow) for case in CASES],
)
def test_decoding_given_tokens_equals_the_forward_pass(family, layers):
    model, params = init_model(tiny(family), jax.random.key(0), layers=layers)
    check(model, noisy(params), ring=STEPS, first_slot=7)


def test_a_value_head_changes_nothing_and_a_ring_may_be_larger():
    model, params = init_model(tiny("llama", num_hidden_layers=1), jax.random.key(0), head="value")
    check(model, noisy(params), ring=16, first_slot=11)


def test_joint_attention_is_one_softmax_and_shares_prompts():
    rng = np.random.default_rng(0)
    q = rng.standard_normal((6, 1, 4, 8))
    prompt = Segment(
        rng.standard_normal((2, 2, 8, 5)),
        rng.standard_normal((2, 2, 5, 8)),
        rng.random((6, 5)) < 0.7,
    )
    own = Segment(
        rng.standard_normal((6, 2, 8, 3)),
        rng.standard_normal((6, 2, 3, 8)),
        rng.random((6, 3)) < 0.7,
    )
    own.seen[:, 0] = True
    got = joint_attention(
        jnp.asarray(q), jax.tree.map(jnp.asarray, (prompt, own)), scale=0.3, softcap=2.0
    )
    for row in range(6):
        for head in range(4):
            keys = np.concatenate([prompt.keys[row // 3, head // 2].T, own.keys[row, head // 2].T])
            values = np.concatenate(
                [prompt.values[row // 3, head // 2], own.values[row, head // 2]]
            )
            scores = 2.0 * np.tanh(0.3 * keys @ q[row, 0, head] / 2.0)
            weights = np.exp(scores) * np.concatenate([prompt.seen[row], own.seen[row]])
            assert np.abs(got[row, 0, head] - weights @ values / weights.sum()).max() < 1e-5


def test_growing_a_ring_puts_its_entries_in_order():
    keys = jnp.arange(2 * 3.0).reshape(2, 1, 1, 3)
    cache = KVCache((keys,), (keys.swapaxes(2, 3),))
    grown = cache.grown(5, 2)
    assert (
        grown.keys[0][0, 0, 0].tolist() == [2, 0, 1, 0, 0] and grown.slots == 5 and grown.rows == 2
    )
    assert (grown.values[0][:, 0, :, 0] == grown.keys[0][:, 0, 0]).all()
    assert cache.take(jnp.array([1, 1, 0])).keys[0][:, 0, 0].tolist() == [
        [3, 4, 5],
        [3, 4, 5],
        [0, 1, 2],
    ]
    assert cache.empty(4, 2).put(cache.take(jnp.array([1])).empty(1, 2), 3).rows == 4
    assert cache.empty(3, 3).put(cache, 1).keys[0][:, 0, 0].tolist() == [
        [0, 0, 0],
        [0, 1, 2],
        [3, 4, 5],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_a_step_copies_no_layer_out_of_the_stack(family):
    """Sliced in the loop over tokens, the weights of all layers were copied for every token."""
    model, params = init_model(tiny(family), jax.random.key(0))
    stacked = "f32[3,32,48]"  # the kernels between the residual stream and the MLP's inside

    def in_loops(lay_out):
        """Whether a loop reads the stack."""
        run = jax.jit(lambda params: forced(model, lay_out(params), STEPS, 0))
        text = run.lower(params).compile().as_text()
        bodies = {part.split(",")[0] for part in text.split("body=%")[1:]}
        read = [block for block in text.split("\n\n") if block[1:].split(" ")[0] in bodies]
        assert read
        return any(stacked in block.partition("\n")[2] for block in read)

    assert in_loops(lambda params: params)
    assert not in_loops(model.lay_out)
    logits = [
        jax.jit(forced, static_argnums=(0, 2, 3))(model, p, STEPS, 0)
        for p in (params, model.lay_out(params))
    ]
    np.testing.assert_allclose(*logits, rtol=1e-6, atol=1e-6)
