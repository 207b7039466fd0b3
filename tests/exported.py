"""A random model with the byte tokenizer, as a Hugging Face folder."""

import jax

from rlhf_jax.data import byte_tokenizer
from rlhf_jax.models import ModelConfig, init_model
from rlhf_jax.runs.export import export_model
from tests.models.tiny import hf_config, noisy


def random_export(folder):
    """It ends a completion almost never."""
    config = ModelConfig.from_hf(
        hf_config("qwen2", vocab_size=320, num_hidden_layers=1, max_window_layers=1)
    )
    model, params = init_model(config, jax.random.key(0))
    return export_model(folder, model, noisy(params), byte_tokenizer())
