"""Makes tests/models/golden: tiny random models of every family, and transformers' logits.

Run where torch and transformers are installed (the `bench` extra):

    python -m tests.models.make_golden

The versions used are in golden/versions.json. The tests read only the files, so they need no torch.
"""

import json
import pathlib
import shutil
import sys

import numpy as np
import torch
import transformers

GOLDEN = pathlib.Path(__file__).parent / "golden"
VOCAB, LENGTH, LENGTHS = 48, 20, (20, 13, 7)
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.5],
    "long_factor": [2.0, 5.0],
    "original_max_position_embeddings": 16,
}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
}
WIDE = {"head_dim": 8}
GEMMA = {**WIDE, "query_pre_attn_scalar": 12, "sliding_window": 5}

# name: (config, dtype of the file, options)
CASES = {
    "llama_llama3": (
        {
            "model_type": "llama",
            **SIZES,
            "rope_parameters": LLAMA3,
            "attention_bias": True,
            "mlp_bias": True,
        },
        "float32",
        {},
    ),
    "llama_v4": (
        {
            "model_type": "llama",
            **SIZES,
            **WIDE,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0},
        },
        "bfloat16",
        {"style": 4, "shards": "6KB", "buffers": "llama"},
    ),
    "llama_dynamic": (
        {
            "model_type": "llama",
            **SIZES,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 3.0},
        }
        | {"max_position_embeddings": 8, "tie_word_embeddings": True},
        "bfloat16",
        {"style": 4},
    ),
    "llama_yarn": (
        {
            "model_type": "llama",
            **SIZES,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
                "beta_fast": 4.0,
                "beta_slow": 1.0,
            },
        },
        "float16",
        {},
    ),
    "qwen2": ({"model_type": "qwen2", **SIZES, "tie_word_embeddings": True}, "bfloat16", {}),
    "qwen2_sliding": (
        {
            "model_type": "qwen2",
            **SIZES,
            "num_hidden_layers": 4,
            "use_sliding_window": True,
            "sliding_window": 5,
        }
        | {"max_window_layers": 2},
        "bfloat16",
        {"style": 4},
    ),
    "qwen3": (
        {
            "model_type": "qwen3",
            **SIZES,
            **WIDE,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        "float16",
        {"shards": "8KB"},
    ),
    "mistral": (
        {"model_type": "mistral", **SIZES, **WIDE, "sliding_window": 6},
        "bfloat16",
        {"style": 4},
    ),
    "gemma2": (
        {
            "model_type": "gemma2",
            **SIZES,
            **GEMMA,
            "num_hidden_layers": 3,
            "attn_logit_softcapping": 5.0,
        }
        | {"final_logit_softcapping": 4.0},
        "bfloat16",
        {},
    ),
    "gemma3_text": (
        {
            "model_type": "gemma3_text",
            **SIZES,
            **GEMMA,
            "num_hidden_layers": 8,
            "rope_parameters": GEMMA3_ROPE,
        },
        "bfloat16",
        {},
    ),
    "gemma3_text_v4": (
        {
            "model_type": "gemma3_text",
            **SIZES,
            **GEMMA,
            "num_hidden_layers": 5,
            "rope_parameters": GEMMA3_ROPE,
        }
        | {"sliding_window_pattern": 2, "final_logit_softcapping": 6.0},
        "bfloat16",
        {"style": 4},
    ),
    "phi3_long": (
        {
            "model_type": "phi3",
            **SIZES,
            "rope_parameters": LONGROPE,
            "original_max_position_embeddings": 16,
        },
        "bfloat16",
        {},
    ),
    "phi3_partial": (
        {
            "model_type": "phi3",
            **SIZES,
            "hidden_size": 32,
            "sliding_window": 6,
            "original_max_position_embeddings": 32,
        }
        | {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 100.0,
                "partial_rotary_factor": 0.75,
            }
        },
        "bfloat16",
        {"style": 4},
    ),
    "gpt2": (
        {
            "model_type": "gpt2",
            "vocab_size": VOCAB,
            "n_embd": 16,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 24,
        }
        | {"bos_token_id": 1, "eos_token_id": 2},
        "float32",
        {"style": 4, "buffers": "gpt2"},
    ),
    "qwen2_reward": (
        {
            "model_type": "qwen2",
            **SIZES,
            "architectures": ["Qwen2ForSequenceClassification"],
            "num_labels": 1,
        },
        "float32",
        {},
    ),
    "gpt2_reward": (
        {
            "model_type": "gpt2",
            "vocab_size": VOCAB,
            "n_embd": 16,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 24,
        }
        | {"pad_token_id": 0, "architectures": ["GPT2ForSequenceClassification"], "num_labels": 1},
        "float32",
        {},
    ),
}


def build(config: dict, dtype: str, seed: int) -> torch.nn.Module:
    """A model whose every parameter is random and large enough to matter."""
    torch.manual_seed(seed)
    kind = (
        transformers.AutoModelForSequenceClassification
        if "num_labels" in config
        else transformers.AutoModelForCausalLM
    )
    hf = transformers.AutoConfig.for_model(**config)
    model = kind.from_config(hf)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            offset = (
                1.0
                if "norm" in name
                and "gemma" not in config["model_type"]
                and name.endswith("weight")
                else 0.0
            )
            offset = 1.0 if ".ln_" in name and name.endswith("weight") else offset
            parameter.copy_(offset + 0.3 * torch.randn_like(parameter))
    return model.to(getattr(torch, dtype))


def to_version_4(config: dict) -> dict:
    """The same config.json as transformers 4 wrote it."""
    config = dict(config)
    rope = config.pop("rope_parameters", None)
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.50.0"
    if rope is not None and "full_attention" in rope:
        whole, local = rope["full_attention"], rope["sliding_attention"]
        config |= {
            "rope_theta": whole.pop("rope_theta"),
            "rope_local_base_freq": local["rope_theta"],
            "rope_scaling": whole,
        }
        for key in ("layer_types", "_sliding_window_pattern"):
            config.pop(key, None)
    elif rope is not None:
        config["rope_theta"] = rope.pop("rope_theta")
        if "partial_rotary_factor" in rope:
            config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
        kind = rope.pop("rope_type")
        config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
        config.pop("layer_types", None)
    return config


def add_buffers(folder: pathlib.Path, kind: str) -> None:
    """Constants that old checkpoints hold."""
    from safetensors.torch import load_file, save_file

    file = next(iter(sorted(folder.glob("*.safetensors"))))
    tensors = load_file(file)
    if kind == "gpt2":
        # as on the hub
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        tensors["h.0.attn.bias"] = torch.tril(torch.ones(24, 24)).reshape(1, 1, 24, 24)
        tensors["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    else:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        index["weight_map"]["model.layers.0.self_attn.rotary_emb.inv_freq"] = file.name
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    save_file(tensors, file, metadata={"format": "pt"})


def make(name: str, seed: int) -> None:
    config, dtype, options = CASES[name]
    folder = GOLDEN / name
    model = build(config, dtype, seed)
    model.save_pretrained(folder, max_shard_size=options.get("shards", "5GB"))
    for extra in folder.glob("generation_config.json"):
        extra.unlink()
    path = folder / "config.json"
    contents = json.loads(path.read_text())
    if options.get("style") == 4:
        contents = to_version_4(contents)
        if "sliding_window_pattern" in config:
            contents["sliding_window_pattern"] = config["sliding_window_pattern"]
    path.write_text(json.dumps(contents, indent=1, sort_keys=True) + "\n")
    if "buffers" in options:
        add_buffers(folder, options["buffers"])

    kind = type(model)
    loaded = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, VOCAB, (len(LENGTHS), LENGTH))
    mask = np.arange(LENGTH)[None, :] < np.asarray(LENGTHS)[:, None]
    tokens[~mask] = 0
    with torch.no_grad():
        out = loaded(
            torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(np.int64))
        ).logits.numpy()
    np.savez_compressed(
        folder / "expected.npz",
        tokens=tokens.astype(np.int32),
        mask=mask,
        out=out.astype(np.float32),
    )
    print(f"{name:16s} max |out| {np.abs(out).max():.2f}")


ROPES = [  # rope parameters, head_dim, max_position_embeddings, tokens in the row
    ({"rope_type": "default", "rope_theta": 10000.0}, 64, 2048, 100),
    ({"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0}, 64, 2048, 100),
    ({"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}, 64, 2048, 100),
    ({"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}, 64, 2048, 5000),
    (
        {
            **LLAMA3,
            "rope_theta": 500000.0,
            "factor": 32.0,
            "original_max_position_embeddings": 8192,
        },
        64,
        131072,
        100,
    ),
    (
        {
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 4.0,
            "original_max_position_embeddings": 32768,
        },
        128,
        131072,
        100,
    ),
    (
        {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 40.0,
            "original_max_position_embeddings": 4096,
        }
        | {
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "mscale": 0.7,
            "mscale_all_dim": 0.5,
            "truncate": False,
        },
        64,
        163840,
        100,
    ),
    (
        {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 2.0,
            "original_max_position_embeddings": 64,
        }
        | {"attention_factor": 0.75},
        32,
        128,
        100,
    ),
    (
        {
            **LONGROPE,
            "short_factor": [1.0 + 0.1 * i for i in range(16)],
            "long_factor": [2.0 + i for i in range(16)],
        },
        32,
        64,
        16,
    ),
    (
        {
            **LONGROPE,
            "short_factor": [1.0 + 0.1 * i for i in range(16)],
            "long_factor": [2.0 + i for i in range(16)],
        },
        32,
        64,
        17,
    ),
]


def make_ropes() -> None:
    """Frequencies and attention factors of transformers' own functions."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    stored = []
    for rope, head_dim, max_position, length in ROPES:
        config = transformers.LlamaConfig(
            hidden_size=4 * head_dim,
            num_attention_heads=4,
            max_position_embeddings=max_position,
            rope_parameters=dict(rope),
        )
        kind = rope["rope_type"]
        compute = (
            LlamaRotaryEmbedding.compute_default_rope_parameters
            if kind == "default"
            else ROPE_INIT_FUNCTIONS[kind]
        )
        frequencies, factor = compute(config, device=None, seq_len=length)
        stored.append(
            {"rope": rope, "head_dim": head_dim, "max_position": max_position, "length": length}
            | {"frequencies": frequencies.tolist(), "factor": factor}
        )
    (GOLDEN / "rope.json").write_text(json.dumps(stored) + "\n")


if __name__ == "__main__":
    make_ropes()
    names = [name for name in sys.argv[1:] or CASES if name in CASES]
    for name in names:
        shutil.rmtree(GOLDEN / name, ignore_errors=True)
        make(name, list(CASES).index(name))
    versions = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    (GOLDEN / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")
