"""Algorithms: one file each, with a configuration, a loss on arrays, and `make(config, model)`.

To add one: write the file, `register` it, document its metrics in `metrics.METRICS`. One that stays
outside of the library is named by its file: ``algorithm: {name: my_file.py:reinforce}``.
"""

from rlhf_jax.algorithms import dapo, dpo, forward, grpo, kto, ppo, reward_model, sft
from rlhf_jax.algorithms.dapo import DAPOConfig, dapo_loss
from rlhf_jax.algorithms.dpo import DPOConfig, dpo_loss
from rlhf_jax.algorithms.grpo import GRPOConfig, grpo_loss
from rlhf_jax.algorithms.kto import KTOConfig, kto_loss
from rlhf_jax.algorithms.metrics import METRICS
from rlhf_jax.algorithms.ppo import PPOConfig, ppo_loss
from rlhf_jax.algorithms.registry import (
    ALGORITHMS,
    algorithm_config,
    algorithm_name,
    default_learning_rate,
    find_algorithm,
    make_algorithm,
    register,
    try_functions,
)
from rlhf_jax.algorithms.reward_model import RewardModelConfig, pairwise_reward_loss
from rlhf_jax.algorithms.sft import SFTConfig, sft_loss

register("sft", SFTConfig, sft.make)
register("reward_model", RewardModelConfig, reward_model.make)
register("dpo", DPOConfig, dpo.make)
register("kto", KTOConfig, kto.make)
register("ppo", PPOConfig, ppo.make)
register("grpo", GRPOConfig, grpo.make)
register("dapo", DAPOConfig, dapo.make)

__all__ = [
    "ALGORITHMS",
    "METRICS",
    "DAPOConfig",
    "DPOConfig",
    "GRPOConfig",
    "KTOConfig",
    "PPOConfig",
    "RewardModelConfig",
    "SFTConfig",
    "algorithm_config",
    "algorithm_name",
    "dapo_loss",
    "default_learning_rate",
    "dpo_loss",
    "find_algorithm",
    "forward",
    "grpo_loss",
    "kto_loss",
    "make_algorithm",
    "pairwise_reward_loss",
    "ppo_loss",
    "register",
    "sft_loss",
    "try_functions",
]
