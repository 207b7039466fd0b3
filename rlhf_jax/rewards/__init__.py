"""Reward functions: built-in, one's own, and the processes that run them.

The reward model, which runs on the device, is in `rlhf_jax.rewards.model`; nothing else here imports JAX.
"""

from rlhf_jax.rewards.answers import answer_of, target_of
from rlhf_jax.rewards.config import PoolConfig, RewardConfig
from rlhf_jax.rewards.registry import REWARDS
from rlhf_jax.rewards.scoring import Rewards, RewardScores, make_rewards

__all__ = ["REWARDS", "PoolConfig", "RewardConfig", "RewardScores", "Rewards", "answer_of", "make_rewards", "target_of"]
