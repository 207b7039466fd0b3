"""How many bytes a run holds while it trains, from shapes alone."""

import math
from typing import Any

import jax

from rlhf_jax.algorithms import DPOConfig, GRPOConfig, PPOConfig
from rlhf_jax.config import Config
from rlhf_jax.loops.online_setup import make_tx
from rlhf_jax.models import ModelConfig, abstract_params, local_folder, make_model, read_config
from rlhf_jax.rewards.registry import MODEL, model_path
from rlhf_jax.sharding import make_mesh
from rlhf_jax.training import make_optimizer

MANY = 2**30
"""Steps: the size of an optimizer state does not depend on them, but a warm-up must fit in."""


def run_bytes(config: Config) -> int:
    """Bytes of parameters, optimizer state, reference model, critic and reward models, over all
    devices.

    Activations, generation caches and buffers of the compiler are not in it.
    """
    algorithm, section = config.algorithm, config.model
    policy = (
        ModelConfig.from_hf(section.config or {})
        if section.path is None
        else read_config(local_folder(section.path))
    )
    shared = isinstance(algorithm, PPOConfig) and algorithm.critic == "shared"
    head = "value" if shared else None if config.is_online else algorithm.head
    params = abstract_params(policy, head, section.dtype)
    further: list[Any] = []
    rewards = [
        str(local_folder(model_path(reward)))
        for reward in config.rewards
        if reward.function == MODEL
    ]
    further += [
        abstract_params(read_config(path), "reward", section.compute_dtype or section.dtype)
        for path in rewards
    ]
    penalised = isinstance(algorithm, PPOConfig | GRPOConfig) and algorithm.kl_coef > 0
    if penalised or (isinstance(algorithm, DPOConfig) and algorithm.reference == "online"):
        further.append(params)
    if isinstance(algorithm, PPOConfig) and not shared:
        path = section.critic or next(iter(rewards), None)
        architecture = policy if path is None else read_config(local_folder(path))
        critic = make_model(
            architecture, mesh=make_mesh({}, devices=jax.local_devices()[:1]), head="reward"
        )
        trained: Any = {
            "policy": params,
            "critic": abstract_params(architecture, "reward", section.dtype),
        }
        tx = make_tx(config, MANY, critic)
    else:
        trained, tx = params, make_optimizer(config.optimizer, total_steps=MANY)
    return tree_bytes([trained, jax.eval_shape(tx.init, trained), further])


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays in a tree."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
