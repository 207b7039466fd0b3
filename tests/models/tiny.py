"""Small configurations and helpers of the model tests."""

import functools
import pathlib
from typing import Any

import jax
import numpy as np

from rlhf_jax.models import ModelConfig

GOLDEN = pathlib.Path(__file__).parent / "golden"
CASES = tuple(sorted(path.name for path in GOLDEN.iterdir() if path.is_dir()))

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
GPT2 = {
    "vocab_size": 64,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 40,
    "initializer_range": 0.2,
}
EXTRA: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "qwen2": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    "qwen3": {},
    "mistral": {"sliding_window": 6},
    "gemma2": {"sliding_window": 6},
    "gemma3_text": {"sliding_window": 6, "sliding_window_pattern": 2, "num_hidden_layers": 4},
    "phi3": {"sliding_window": 6},
    "gpt2": {},
}
FAMILY_NAMES = tuple(EXTRA)


def hf_config(family: str, **changes: Any) -> dict[str, Any]:
    """config.json of a tiny model."""
    sizes = {k: v for k, v in SIZES.items() if family != "phi3" or k != "head_dim"}
    return {
        "model_type": family,
        **(GPT2 if family == "gpt2" else sizes),
        **EXTRA[family],
        **changes,
    }


def tiny(family: str, **changes: Any) -> ModelConfig:
    """A tiny model of a family; `changes` are keys of config.json."""
    return ModelConfig.from_hf(hf_config(family, **changes))


def noisy(params: Any, seed: int = 7) -> Any:
    """Noise on every parameter, so that norms, biases and heads matter."""
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(
        structure,
        [
            leaf + 0.1 * rng.standard_normal(leaf.shape).astype(np.float32).astype(leaf.dtype)
            for leaf in leaves
        ],
    )


@functools.cache
def ragged(
    rows: int = 3, length: int = 20, vocab: int = 64, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Right-padded tokens and mask; the first row is full."""
    rng = np.random.default_rng(seed)
    lengths = np.concatenate([[length], rng.integers(3, length, rows - 1)])
    mask = np.arange(length)[None, :] < lengths[:, None]
    return np.where(mask, rng.integers(1, vocab, (rows, length)), 0).astype(np.int32), mask


def max_difference(a: Any, b: Any) -> float:
    """Largest absolute difference of two trees of equal structure."""
    return max(
        jax.tree.leaves(
            jax.tree.map(lambda x, y: float(np.abs(np.asarray(x) - np.asarray(y)).max()), a, b)
        )
    )
