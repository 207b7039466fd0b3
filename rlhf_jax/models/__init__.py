"""Decoder-only language models as pure functions of nested dicts; only here is Flax known."""

from rlhf_jax.models.adapter import HEADS, abstract_params, init_model, make_model
from rlhf_jax.models.checkpoint import ModelLoadError
from rlhf_jax.models.config import ModelConfig
from rlhf_jax.models.export import save_pretrained
from rlhf_jax.models.families import FAMILIES
from rlhf_jax.models.pretrained import load_pretrained, local_folder, read_config
from rlhf_jax.models.reader import ModelConfigError
from rlhf_jax.models.remat import REMAT
from rlhf_jax.models.transformer import LAYERS

__all__ = [
    "FAMILIES",
    "HEADS",
    "LAYERS",
    "REMAT",
    "ModelConfig",
    "ModelConfigError",
    "ModelLoadError",
    "abstract_params",
    "init_model",
    "load_pretrained",
    "local_folder",
    "make_model",
    "read_config",
    "save_pretrained",
]
