"""The model that every comparison shares, as Hugging Face folders, and random prompts."""

import pathlib

import jax
import numpy as np

from rlhf_jax.bench.low_ids import VOCAB
from rlhf_jax.models import ModelConfig, init_model, save_pretrained

MODEL = {
    "model_type": "qwen2",
    "vocab_size": VOCAB,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 688,
    "max_position_embeddings": 1024,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


def save_model(
    folder: pathlib.Path,
    *,
    seed: int = 0,
    head: str | None = None,
    model: dict[str, object] | None = None,
) -> None:
    """Random weights as a Hugging Face folder.

    Args:
      folder: to be made.
      seed: of the weights.
      head: "reward" for a model with a (random) scalar head instead of the language-model head.
      model: its configuration (default `MODEL`).
    """
    made, params = init_model(ModelConfig.from_hf(model or MODEL), jax.random.key(seed), head=head)
    if head is not None:
        drawn = jax.random.normal(jax.random.key(seed), params["score"]["kernel"].shape)
        params = {**params, "score": {"kernel": 0.02 * drawn}}
    save_pretrained(folder, made, params)


def place_model(folder: pathlib.Path, given: pathlib.Path | None) -> None:
    """The model that the sides load: a link to the one given, otherwise `MODEL`."""
    if given is None:
        save_model(folder)
    else:
        folder.symlink_to(given.resolve())


def random_tokens(rows: int, length: int, *, seed: int, vocab: int = VOCAB) -> np.ndarray:
    """int32 [rows, length] ids without 0 and 1."""
    return np.random.default_rng(seed).integers(2, vocab, (rows, length), dtype=np.int32)
