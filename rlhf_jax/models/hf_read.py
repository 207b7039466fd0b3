"""Readers of config.json, one per family: its contents -> the fields of `ModelConfig`.

Strict: a key that is neither understood nor known to leave the maths alone is an error, so that no
setting of a checkpoint is ever ignored. Dropout is never applied, whatever config.json says.
"""

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_jax.models.reader import ModelConfigError, Reader
from rlhf_jax.models.rope import RopeConfig, RopeError

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_LAYER_TYPES = {"full_attention": "full", "sliding_attention": "sliding"}


def _activation(reader: Reader, key: str, default: str) -> str:
    name = reader.get(key, default)
    if name not in _ACTIVATIONS:
        raise ModelConfigError(
            f"{key}={name!r} is not supported; supported: {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def _layer_types(
    reader: Reader, num_layers: int, default: Callable[[int], bool]
) -> tuple[str, ...]:
    """`layer_types` of config.json, else "sliding" where `default(i)`."""
    given = reader.get("layer_types")
    if given is None:
        return tuple("sliding" if default(i) else "full" for i in range(num_layers))
    if len(given) != num_layers:
        raise ModelConfigError(
            f"layer_types names {len(given)} layers, but num_hidden_layers={num_layers}: leave it "
            "out, or name as many"
        )
    return tuple(_LAYER_TYPES.get(name, name) for name in given)


def _one_rope(
    reader: Reader, max_position: int, *, partial: bool = False, original: int | None = None
) -> RopeConfig:
    """The rotary embedding of a family that has one for all layers."""
    scaling = reader.mapping("rope_scaling")
    parameters = reader.mapping("rope_parameters")
    rope = dict(scaling or parameters)
    theta = reader.positive("rope_theta", parameters.get("rope_theta", 10_000.0))
    fraction = reader.positive("partial_rotary_factor", 1.0)
    rope.setdefault("partial_rotary_factor", fraction)
    if rope["partial_rotary_factor"] != 1.0 and not partial:
        raise ModelConfigError(
            f"partial_rotary_factor={rope['partial_rotary_factor']!r} is not supported for "
            f"model_type {reader.model_type!r}"
        )
    if original is not None:
        kind = rope.get("rope_type", rope.get("type"))
        if kind in ("su", "yarn"):  # early names of longrope in Phi-3's files
            rope["rope_type"] = "longrope"
        rope["original_max_position_embeddings"] = original
    return _rope(rope, theta=theta, max_position=max_position)


def _rope(rope: Mapping[str, Any], *, theta: float, max_position: int) -> RopeConfig:
    try:
        return RopeConfig.from_hf(rope, theta=theta, max_position=max_position)
    except RopeError as error:
        raise ModelConfigError(str(error)) from None


def _rms_decoder(reader: Reader, **specific: Any) -> dict[str, Any]:
    """What all families but GPT-2 share."""
    config = {
        "family": reader.model_type,
        "vocab_size": reader.require("vocab_size"),
        "hidden_size": reader.require("hidden_size"),
        "num_layers": reader.require("num_hidden_layers"),
        "num_heads": reader.require("num_attention_heads"),
        "intermediate_size": reader.require("intermediate_size"),
        "norm_eps": reader.number("rms_norm_eps", 1e-6),
        **reader.tokens(),
        **specific,
    }
    heads = config["num_heads"]
    config["num_kv_heads"] = kv_heads = reader.size("num_key_value_heads", heads)
    if heads % kv_heads:
        raise ModelConfigError(
            f"num_key_value_heads={kv_heads} does not divide num_attention_heads={heads}: every "
            "key/value head serves the same number of heads"
        )
    if config.get("head_dim") is None:
        given = reader.get("head_dim")
        config["head_dim"] = (
            reader.share("hidden_size", "num_attention_heads")
            if given is None
            else reader.size("head_dim", given)
        )
    return config


def read_llama(config: Mapping[str, Any]) -> dict[str, Any]:
    """Llama 2 and 3.x: fields of `ModelConfig` from the keys of a config.json."""
    reader = Reader(config)
    bias = bool(reader.get("attention_bias", False))
    max_position = reader.size("max_position_embeddings", 2048)
    fields = _rms_decoder(
        reader,
        max_position=max_position,
        activation=_activation(reader, "hidden_act", "silu"),
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=bool(reader.get("mlp_bias", False)),
        tie_embeddings=bool(reader.get("tie_word_embeddings", False)),
        rope=_one_rope(reader, max_position),
    )
    return reader.finish({**fields, "layer_types": ("full",) * fields["num_layers"]})


def read_qwen(config: Mapping[str, Any]) -> dict[str, Any]:
    """Qwen2 and 2.5 (biases on queries, keys, values) and Qwen3 (q/k norms)."""
    reader = Reader(config)
    third = reader.model_type == "qwen3"
    bias = bool(reader.get("attention_bias", False)) if third else False
    max_position = reader.size("max_position_embeddings", 32768)
    fields = _rms_decoder(
        reader,
        max_position=max_position,
        activation=_activation(reader, "hidden_act", "silu"),
        qkv_bias=bias or not third,
        o_bias=bias,
        qk_norm=third,
        head_dim=reader.size("head_dim", 128) if third else None,
        tie_embeddings=bool(reader.get("tie_word_embeddings", False)),
        rope=_one_rope(reader, max_position),
    )
    window = (
        reader.nullable("sliding_window", 4096) if reader.get("use_sliding_window", False) else None
    )
    first = reader.integer("max_window_layers", 28)
    fields["sliding_window"] = window
    fields["layer_types"] = _layer_types(
        reader, fields["num_layers"], lambda i: window is not None and i >= first
    )
    reader.use("sliding_window")
    return reader.finish(fields)


def read_windowed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Mistral and Phi-3: every layer slides when there is a window."""
    reader = Reader(config)
    phi = reader.model_type == "phi3"
    if phi:
        reader.expect("full_attn_mod", 1)
        reader.expect("interpolate_factor", 1)
    max_position = reader.size("max_position_embeddings", 4096 if phi else 131072)
    original = reader.size("original_max_position_embeddings", 4096) if phi else None
    window = reader.nullable("sliding_window", None if phi else 4096)
    eps = {"norm_eps": reader.number("rms_norm_eps", 1e-5)} if phi else {}
    fields = _rms_decoder(
        reader,
        max_position=max_position,
        activation=_activation(reader, "hidden_act", "silu"),
        tie_embeddings=bool(reader.get("tie_word_embeddings", False)),
        rope=_one_rope(reader, max_position, partial=phi, original=original),
        sliding_window=window,
        **eps,
    )
    kind = "full" if window is None else "sliding"
    return reader.finish({**fields, "layer_types": (kind,) * fields["num_layers"]})


def _gemma(reader: Reader, **specific: Any) -> dict[str, Any]:
    """What Gemma 2 and 3 share."""
    bias = bool(reader.get("attention_bias", False))
    legacy = reader.get("hidden_act", "gelu_pytorch_tanh")
    if legacy not in ("gelu", "gelu_pytorch_tanh"):
        raise ModelConfigError(
            f"hidden_act={legacy!r} is not supported for Gemma, which reads hidden_activation"
        )
    return _rms_decoder(
        reader,
        activation=_activation(reader, "hidden_activation", "gelu_pytorch_tanh"),
        norm="rms_plus_one",
        qkv_bias=bias,
        o_bias=bias,
        post_norms=True,
        scale_embeddings=True,
        head_dim=reader.size("head_dim", 256),
        query_scalar=reader.positive("query_pre_attn_scalar", 256),
        sliding_window=reader.nullable("sliding_window", 4096),
        tie_embeddings=bool(reader.get("tie_word_embeddings", True)),
        **specific,
    )


def read_gemma2(config: Mapping[str, Any]) -> dict[str, Any]:
    """Gemma 2: alternating windows, soft-capping, norms around both sublayers."""
    reader = Reader(config)
    max_position = reader.size("max_position_embeddings", 8192)
    fields = _gemma(
        reader,
        max_position=max_position,
        attention_softcap=reader.cap("attn_logit_softcapping", 50.0),
        logits_softcap=reader.cap("final_logit_softcapping", 30.0),
        rope=_one_rope(reader, max_position),
    )
    fields["layer_types"] = _layer_types(reader, fields["num_layers"], lambda i: i % 2 == 0)
    return reader.finish(fields)


def read_gemma3(config: Mapping[str, Any]) -> dict[str, Any]:
    """Gemma 3 text: five windowed layers to a full one, each kind with its own RoPE."""
    # The text part of a multimodal config.json names only what differs from these sizes of
    # transformers' Gemma3TextConfig.
    sizes = {
        "vocab_size": 262_208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
    }
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4}
    reader = Reader(config, defaults={**sizes, **heads})
    max_position = reader.size("max_position_embeddings", 131_072)
    parameters = reader.mapping("rope_parameters")
    unknown = sorted(set(parameters) - set(_LAYER_TYPES))
    if unknown:
        raise ModelConfigError(
            f"rope_parameters[{unknown[0]!r}] is not supported for Gemma 3; keys: "
            f"{', '.join(_LAYER_TYPES)}"
        )
    whole = {**(parameters.get("full_attention") or {}), **reader.mapping("rope_scaling")}
    local = parameters.get("sliding_attention") or {}
    for rope in (whole, local):
        if rope.get("partial_rotary_factor", 1.0) != 1.0:
            raise ModelConfigError(
                f"partial_rotary_factor={rope['partial_rotary_factor']!r} is not supported for "
                "Gemma 3"
            )
    fields = _gemma(
        reader,
        max_position=max_position,
        qk_norm=True,
        logits_softcap=reader.cap("final_logit_softcapping", None),
        rope=_rope(
            whole, theta=reader.positive("rope_theta", 1_000_000.0), max_position=max_position
        ),
        local_rope=_rope(
            local,
            theta=reader.positive("rope_local_base_freq", 10_000.0),
            max_position=max_position,
        ),
    )
    every = reader.size("sliding_window_pattern", reader.size("_sliding_window_pattern", 6))
    fields["layer_types"] = _layer_types(
        reader, fields["num_layers"], lambda i: bool((i + 1) % every)
    )
    return reader.finish(fields)


def read_gemma3_multimodal(config: Mapping[str, Any]) -> dict[str, Any]:
    """The text part of a multimodal Gemma 3."""
    text = config.get("text_config")
    if not isinstance(text, Mapping):
        raise ModelConfigError(
            "model_type 'gemma3' needs text_config, which config.json does not give"
        )
    inherited = (
        "architectures",
        "tie_word_embeddings",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "quantization_config",
    )
    outer = {key: config[key] for key in inherited if config.get(key) is not None}
    fields = read_gemma3({**outer, **text, "model_type": "gemma3_text"})
    classifier = any(
        name.endswith("SequenceClassification") for name in config.get("architectures") or ()
    )
    return {**fields, "lm_head": not classifier}


def read_gpt2(config: Mapping[str, Any]) -> dict[str, Any]:
    """GPT-2: learned positions, LayerNorm and biases."""
    reader = Reader(config)
    hidden = reader.require("n_embd")
    heads = reader.require("n_head")
    fields = {
        "family": "gpt2",
        "vocab_size": reader.require("vocab_size"),
        "hidden_size": hidden,
        "num_layers": reader.require("n_layer"),
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": reader.share("n_embd", "n_head"),
        "intermediate_size": reader.size("n_inner", 4 * hidden),
        "max_position": reader.size("n_positions", 1024),
        "activation": _activation(reader, "activation_function", "gelu_new"),
        "gated_mlp": False,
        "norm": "layer",
        "norm_eps": reader.number("layer_norm_epsilon", 1e-5),
        "qkv_bias": True,
        "o_bias": True,
        "mlp_bias": True,
        "query_scalar": None if reader.get("scale_attn_weights", True) else 1,
        "tie_embeddings": bool(reader.get("tie_word_embeddings", True)),
        "rope": None,
        **reader.tokens(),
    }
    return reader.finish({**fields, "layer_types": ("full",) * fields["num_layers"]})
