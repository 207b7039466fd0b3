"""Reading and writing config.json: both styles, and everything unsupported is named."""

import json

import pytest

from rlhf_jax.models import FAMILIES, ModelConfig, ModelConfigError
from tests.models.tiny import FAMILY_NAMES, hf_config, tiny


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_round_trip_and_class_names(family):
    config = tiny(family, bos_token_id=1, eos_token_id=[2, 3], pad_token_id=0)
    written = json.loads(json.dumps(config.to_hf()))
    assert ModelConfig.from_hf(written) == config
    assert hash(config) == hash(ModelConfig.from_hf(written))
    assert written["architectures"] == [FAMILIES[family].causal]
    assert written["eos_token_id"] == [2, 3]


def test_both_styles_read_the_same():
    rope = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    old = {
        "rope_theta": 5e5,
        "rope_scaling": {"rope_type": "llama3", **rope},
        "torch_dtype": "bfloat16",
    }
    new = {
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **rope},
        "dtype": "bfloat16",
    }
    assert tiny("llama", **old) == tiny("llama", **new)
    local = {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    nested = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    assert tiny("gemma3_text", **local) == tiny("gemma3_text", rope_parameters=nested)
    assert tiny("gemma3_text", **local).local_rope.theta == 1e4


def test_defaults_are_those_of_transformers():
    gemma = ModelConfig.from_hf({"model_type": "gemma3", "text_config": {"num_hidden_layers": 7}})
    assert (gemma.family, gemma.vocab_size, gemma.num_heads, gemma.head_dim) == (
        "gemma3_text",
        262_208,
        8,
        256,
    )
    assert gemma.layer_types == ("sliding",) * 5 + ("full", "sliding")
    assert gemma.tie_embeddings and gemma.rope.theta == 1e6 and gemma.local_rope.theta == 1e4
    qwen = tiny("qwen2", use_sliding_window=False)
    assert qwen.sliding_window is None and set(qwen.layer_types) == {"full"}
    assert tiny("gemma2").layer_types == ("sliding", "full", "sliding")
    assert tiny("gemma2").attention_scale == 256**-0.5
    assert tiny("gemma2", final_logit_softcapping=None).logits_softcap is None
    phi = tiny(
        "phi3", rope_scaling={"type": "su", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    )
    assert (
        phi.rope.kind == "longrope"
        and dict(phi.rope.scaling)["original_max_position_embeddings"] == 4096
    )


def test_phi3_is_written_for_transformers_4_where_it_can_say_it():
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    plain = tiny(
        "phi3", rope_scaling={"type": "longrope", **factors}, original_max_position_embeddings=32
    )
    assert plain.to_hf()["rope_scaling"] == {"type": "longrope", **factors}
    scaled = tiny(
        "phi3", rope_parameters={"rope_type": "longrope", "attention_factor": 1.25, **factors}
    )
    assert scaled.to_hf()["rope_scaling"] is None
    for config in (plain, scaled):
        assert ModelConfig.from_hf(config.to_hf()) == config


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("llama", {"model_type": "mamba"}, ["'mamba'", "llama", "gpt2"]),
        ("llama", {"model_type": None}, ["None", "supported"]),
        ("llama", {"hidden_size": None}, ["hidden_size", "missing"]),
        ("llama", {"hidden_size": "big"}, ["hidden_size='big'", "integer"]),
        (
            "llama",
            {"hidden_size": 63, "head_dim": None},
            ["hidden_size=63", "num_attention_heads=4", "hidden_size=64 would"],
        ),
        ("llama", {"num_attention_heads": 0}, ["num_attention_heads=0", "positive"]),
        ("llama", {"num_hidden_layers": 0}, ["num_hidden_layers=0", "positive"]),
        ("llama", {"num_key_value_heads": 0}, ["num_key_value_heads=0", "positive"]),
        ("llama", {"num_key_value_heads": 3}, ["num_key_value_heads=3", "num_attention_heads=4"]),
        ("llama", {"head_dim": 15}, ["head_dim=15", "even"]),
        ("llama", {"head_dim": 0}, ["head_dim=0", "positive"]),
        ("llama", {"intermediate_size": 0}, ["intermediate_size=0", "positive"]),
        ("llama", {"max_position_embeddings": 0}, ["max_position_embeddings=0", "positive"]),
        ("llama", {"vocab_size": -1}, ["vocab_size=-1", "positive"]),
        ("llama", {"rope_theta": 0}, ["rope_theta=0", "positive"]),
        ("llama", {"rope_parameters": {"rope_theta": -1.0}}, ["rope_theta=-1.0", "positive"]),
        ("phi3", {"partial_rotary_factor": 0.0}, ["partial_rotary_factor=0.0", "positive"]),
        ("phi3", {"partial_rotary_factor": 1.5}, ["partial_rotary_factor=1.5", "at most 1"]),
        ("gemma2", {"attn_logit_softcapping": 0}, ["attn_logit_softcapping=0", "positive"]),
        ("gemma2", {"query_pre_attn_scalar": 0}, ["query_pre_attn_scalar=0", "positive"]),
        ("gemma3_text", {"sliding_window_pattern": 0}, ["sliding_window_pattern=0", "positive"]),
        ("gpt2", {"n_embd": 63}, ["n_embd=63", "n_head=4", "n_embd=64 would"]),
        ("gpt2", {"n_positions": "many"}, ["n_positions='many'", "integer"]),
        ("llama", {"hidden_act": "mish"}, ["hidden_act='mish'", "silu"]),
        ("llama", {"rms_norm_eps": "small"}, ["rms_norm_eps='small'", "number"]),
        ("llama", {"rope_scaling": {"type": "mrope", "factor": 2}}, ["'mrope'", "llama3"]),
        ("llama", {"rope_scaling": {"type": "linear"}}, ["linear", "factor"]),
        (
            "llama",
            {"rope_scaling": {"type": "linear", "factor": "two"}},
            ["factor='two'", "number"],
        ),
        (
            "llama",
            {"rope_scaling": {"type": "linear", "factor": 2.0, "alpha": 3}},
            ["alpha=3", "linear"],
        ),
        ("llama", {"rope_scaling": "linear"}, ["rope_scaling='linear'", "object"]),
        ("llama", {"partial_rotary_factor": 0.5}, ["partial_rotary_factor=0.5", "llama"]),
        ("llama", {"quantization_config": {"bits": 4}}, ["quantization_config", "not supported"]),
        ("qwen2", {"num_experts": 8}, ["num_experts=8", "qwen2"]),
        ("mistral", {"attention_bias": True}, ["attention_bias=True", "mistral"]),
        ("mistral", {"sliding_window": 0}, ["sliding_window=0"]),
        (
            "qwen3",
            {"layer_types": ["chunked_attention"] * 3},
            ["chunked_attention", "full, sliding"],
        ),
        ("qwen3", {"layer_types": ["full_attention"]}, ["1 layers", "num_hidden_layers=3"]),
        ("gemma2", {"use_bidirectional_attention": True}, ["use_bidirectional_attention"]),
        ("gemma2", {"hidden_act": "silu"}, ["hidden_act='silu'"]),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, ["attn_logit_softcapping=50.0"]),
        (
            "gemma3_text",
            {"rope_parameters": {"rope_type": "default"}},
            ["rope_type", "full_attention"],
        ),
        ("gemma3_text", {"model_type": "gemma3"}, ["text_config"]),
        ("phi3", {"full_attn_mod": 2}, ["full_attn_mod=2"]),
        (
            "phi3",
            {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
            ["long_factor", "4 numbers"],
        ),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, ["scale_attn_by_inverse_layer_idx"]),
        ("gpt2", {"add_cross_attention": True}, ["add_cross_attention"]),
    ],
)
def test_what_is_not_supported_is_named_in_one_line(family, changes, words):
    with pytest.raises(ModelConfigError) as caught:
        ModelConfig.from_hf(hf_config(family, **changes))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_harmless_keys_are_accepted():
    harmless = {
        "attention_dropout": 0.1,
        "use_cache": True,
        "_name_or_path": "x",
        "top_p": 0.9,
        "use_mrope": False,
    }
    assert tiny("qwen2", **harmless) == tiny("qwen2")
