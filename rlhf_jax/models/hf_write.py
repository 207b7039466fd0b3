"""Writers of config.json: fields of `ModelConfig` -> the contents that transformers reads.

The keys of transformers 5 (`rope_parameters`) and those of transformers 4 (`rope_theta`,
`rope_scaling`) stand side by side.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

from rlhf_jax.models.reader import ModelConfigError
from rlhf_jax.models.rope import RopeConfig

Fields: TypeAlias = Mapping[str, Any]
"""Fields of a `ModelConfig` by their names, as the readers return them."""

_HF_ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu"}
_HF_LAYER_TYPES = {"full": "full_attention", "sliding": "sliding_attention"}


def _write_common(config: Fields) -> dict[str, Any]:
    head = {} if config["lm_head"] else {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    eos = config["eos_token_id"]
    return {
        "model_type": config["family"],
        "vocab_size": config["vocab_size"],
        "tie_word_embeddings": config["tie_embeddings"],
        "initializer_range": config["initializer_range"],
        "bos_token_id": config["bos_token_id"],
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
        "pad_token_id": config["pad_token_id"],
        "use_cache": True,
        **head,
    }


def write_rms(config: Fields) -> dict[str, Any]:
    """config.json of every family but GPT-2: keys that a family does not have are left out."""
    rope = _present(config["rope"]).to_hf()
    fields = {
        **_write_common(config),
        "hidden_size": config["hidden_size"],
        "num_hidden_layers": config["num_layers"],
        "num_attention_heads": config["num_heads"],
        "num_key_value_heads": config["num_kv_heads"],
        "head_dim": config["head_dim"],
        "intermediate_size": config["intermediate_size"],
        "max_position_embeddings": config["max_position"],
        "rms_norm_eps": config["norm_eps"],
        "attention_dropout": 0.0,
        "rope_theta": rope["rope_theta"],
        "rope_scaling": None
        if rope["rope_type"] == "default"
        else {k: v for k, v in rope.items() if k != "rope_theta"},
        "rope_parameters": rope,
        ("hidden_activation" if config["post_norms"] else "hidden_act"): _HF_ACTIVATIONS[
            config["activation"]
        ],
    }
    if config["family"] in ("llama", "qwen3", "gemma2", "gemma3_text"):
        fields["attention_bias"] = config["o_bias"]
    if config["family"] == "llama":
        fields["mlp_bias"] = config["mlp_bias"]
    if config["family"] in ("mistral", "phi3", "gemma2", "gemma3_text"):
        fields["sliding_window"] = config["sliding_window"]
    if config["family"] in ("qwen2", "qwen3"):
        slides = config["sliding_window"] is not None
        fields |= {"use_sliding_window": slides, "sliding_window": config["sliding_window"]}
        sliding = [i for i, kind in enumerate(config["layer_types"]) if kind == "sliding"]
        fields["max_window_layers"] = sliding[0] if sliding else config["num_layers"]
    if config["family"] in ("qwen2", "qwen3", "gemma2", "gemma3_text"):
        fields["layer_types"] = [_HF_LAYER_TYPES[kind] for kind in config["layer_types"]]
    if config["post_norms"]:
        fields |= {
            "query_pre_attn_scalar": config["query_scalar"],
            "final_logit_softcapping": config["logits_softcap"],
        }
    return fields


def write_gemma2(config: Fields) -> dict[str, Any]:
    """Keys of a Gemma 2 config.json."""
    return {**write_rms(config), "attn_logit_softcapping": config["attention_softcap"]}


def write_gemma3(config: Fields) -> dict[str, Any]:
    """Keys of a Gemma 3 text config.json."""
    whole = _present(config["rope"]).to_hf()
    local = _present(config["local_rope"]).to_hf()
    nested = {"full_attention": whole, "sliding_attention": local}
    return {
        **write_rms(config),
        "rope_parameters": nested,
        "rope_local_base_freq": local["rope_theta"],
    }


def write_phi3(config: Fields) -> dict[str, Any]:
    """Keys of this family's config.json."""
    rope = _present(config["rope"])
    fields = write_rms(config)
    scaling = dict(rope.scaling)
    original = scaling.pop("original_max_position_embeddings", config["max_position"])
    fields |= {
        "original_max_position_embeddings": original,
        "partial_rotary_factor": rope.rotary_fraction,
    }
    fields["rope_parameters"] = {
        **fields["rope_parameters"],
        "partial_rotary_factor": rope.rotary_fraction,
    }
    # transformers 4 takes exactly these three keys; what they cannot say is left to
    # rope_parameters.
    exact = set(scaling) == {"short_factor", "long_factor"}
    lists = {key: list(value) for key, value in scaling.items() if isinstance(value, tuple)}
    fields["rope_scaling"] = {"type": rope.kind, **lists} if exact else None
    return fields


def write_gpt2(config: Fields) -> dict[str, Any]:
    """Keys of a GPT-2 config.json."""
    return {
        **_write_common(config),
        "n_embd": config["hidden_size"],
        "n_layer": config["num_layers"],
        "n_head": config["num_heads"],
        "n_inner": config["intermediate_size"],
        "n_positions": config["max_position"],
        "activation_function": "gelu_new"
        if config["activation"] == "gelu_tanh"
        else _HF_ACTIVATIONS[config["activation"]],
        "layer_norm_epsilon": config["norm_eps"],
        "scale_attn_weights": config["query_scalar"] is None,
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
    }


def _present(rope: RopeConfig | None) -> RopeConfig:
    if rope is None:
        raise ModelConfigError("this family needs a rotary embedding (rope)")
    return rope
