"""The formula of useful operations, against counts by hand and against what XLA counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import ModelConfig, init_model
from rlhf_jax.models.flops import cache_reads, forward_flops, layer_kernels, seen_pairs, windows_of

QWEN = {
    "model_type": "qwen2",
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
GPT2 = {"model_type": "gpt2", "vocab_size": 512, "n_embd": 64, "n_layer": 2, "n_head": 4}
MISTRAL = QWEN | {"model_type": "mistral", "sliding_window": 3}


def test_a_hand_count():
    config = ModelConfig.from_hf(QWEN)
    # queries and output 64 x 64 each, keys and values 64 x 32 each, three matrices of 64 x 160
    kernels = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 160
    assert layer_kernels(config) == kernels
    spans = np.array([[0, 5], [2, 4]])
    # tokens at positions 0..4 see 1 + 2 + 3 + 4 + 5, those at 2 and 3 see 3 + 4
    attention = 2 * 2 * 64 * (15 + 7)
    assert forward_flops(config, spans, 3) == (
        2 * 7 * 2 * kernels + 2 * attention + 2 * 3 * 64 * 512
    )


def test_a_model_without_gates_has_two_matrices():
    config = ModelConfig.from_hf(GPT2)
    assert layer_kernels(config) == 4 * 64 * 64 + 2 * 64 * 256


def test_a_window_bounds_what_is_seen():
    config = ModelConfig.from_hf(MISTRAL)
    assert windows_of(config) == ((None, 0), (3, 2))
    first = np.array([0, 0, 4])
    stop = np.array([2, 6, 6])
    by_hand = [1 + 2, 1 + 2 + 3 + 3 + 3 + 3, 3 + 3]
    np.testing.assert_array_equal(seen_pairs(first, stop, 3), by_hand)
    np.testing.assert_array_equal(seen_pairs(first, stop, None), [3, 21, 5 + 6])


def test_reading_in_stretches_costs_what_reading_at_once_costs():
    for keys in (QWEN, MISTRAL):
        config = ModelConfig.from_hf(keys)
        whole = forward_flops(config, np.array([[0, 9]]), 0)
        assert forward_flops(config, np.array([[0, 4], [4, 8], [8, 9]]), 0) == whole


def test_cache_reads_by_hand():
    config = ModelConfig.from_hf(QWEN)
    # prompt of 5; completions of 3 and 1 tokens: one row decodes two tokens, and reads 5 + 1, 5 + 2
    assert cache_reads(config, np.array([5]), np.array([[3, 1]])) == 2 * (6 + 7)
    # two that decode together read the prompt once
    assert cache_reads(config, np.array([5]), np.array([[2, 2]])) == 2 * (5 + 1 + 1)
    assert cache_reads(config, np.array([5]), np.array([[1, 0]])) == 0
    # with a window of 3 a query sees 2 of the prompt and itself, then 1 and 2 of its own
    config = ModelConfig.from_hf(MISTRAL)
    assert cache_reads(config, np.array([5]), np.array([[3]])) == 2 * (3 + 3)


@pytest.mark.parametrize("keys", [QWEN, GPT2])
def test_xla_counts_the_same(keys):
    """Of a forward pass with all of its logits, unrolled: what is not a product stays below 5 %.

    XLA computes attention's upper half too, so the formula is given that: every token sees all.
    """
    rows = 3
    width = 64
    config = ModelConfig.from_hf(keys)
    model, params = init_model(config, jax.random.key(0), layers="unroll", attention="xla")
    tokens = jnp.ones((rows, width), jnp.int32)
    mask = jnp.ones((rows, width), bool)
    program = jax.jit(model.logits).lower(params, tokens, mask).compile()
    counted = program.cost_analysis()["flops"]
    useful = forward_flops(config, np.tile([0, width], (rows, 1)), rows * width)
    upper = 2 * 2 * 64 * rows * (width * width - width * (width + 1) // 2) * config.num_layers
    # measured 2.7 % (qwen2) and 4.0 % (gpt2, whose activation is a tanh)
    assert useful + upper <= counted <= 1.05 * (useful + upper)
