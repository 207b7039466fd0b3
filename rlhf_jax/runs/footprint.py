"""How many bytes a run holds while it trains, from shapes alone."""

import math
from typing import Any

import jax

from rlhf_jax.config import Config
from rlhf_jax.models import ModelConfig, abstract_params, local_folder, read_config
from rlhf_jax.rewards.registry import MODEL, model_path
from rlhf_jax.runs.trees import TreeSpec, tree_specs
from rlhf_jax.training import make_optimizers

MANY = 2**30
"""Steps: the size of an optimizer state does not depend on them, but a warm-up must fit in."""


_SMALL = 2**29


def is_small(config: Config) -> bool:
    """Whether keeping freed memory pays: steps of small models are fast enough that page faults
    count, and their peak is not much to keep.

    With the 135M parameters of SmolLM2 it doubled the resident memory of DPO and made nothing
    faster.
    """
    return not config.model.given and run_bytes(config) < _SMALL


def run_bytes(config: Config) -> int:
    """Bytes of parameters, optimizer state, reference model, critic and reward models, over all
    devices.

    Activations, generation caches and buffers of the compiler are not in it.
    """
    section = config.model
    specs = tree_specs(config)
    trained = {spec.role: _tree(config, spec) for spec in specs if spec.is_trained}
    frozen: list[Any] = [_tree(config, spec) for spec in specs if not spec.is_trained]
    rewards = [model_path(reward) for reward in config.rewards if reward.function == MODEL]
    dtype = section.compute_dtype or section.dtype
    frozen += [abstract_params(read_config(local_folder(p)), "reward", dtype) for p in rewards]
    tx = make_optimizers(config.optimizer, config.algorithm.models.trained, total_steps=MANY)
    return tree_bytes([trained, jax.eval_shape(tx.init, trained), frozen])


def _tree(config: Config, spec: TreeSpec) -> Any:
    """The shapes of one tree."""
    section = config.model
    if spec.path is not None:
        architecture = read_config(local_folder(spec.path))
    elif section.path is not None:
        architecture = read_config(local_folder(section.path))
    else:
        architecture = ModelConfig.from_hf(section.config or {})
    return abstract_params(architecture, spec.head, section.dtype)


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays in a tree."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
