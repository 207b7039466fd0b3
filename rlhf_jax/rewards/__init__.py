"""Reward functions: built-in, one's own, and the processes that run them."""

from rlhf_jax.rewards.config import PoolConfig, RewardConfig

__all__ = ["PoolConfig", "RewardConfig"]
