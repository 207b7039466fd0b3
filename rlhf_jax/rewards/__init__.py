"""Reward functions: built-in, one's own, and the processes that run them.

The reward model, which runs on the device, is in `rlhf_jax.rewards.model`; nothing else here
imports JAX.
"""

from rlhf_jax.rewards.answers import answer_of, target_of
from rlhf_jax.rewards.calls import TrainerState
from rlhf_jax.rewards.config import PoolConfig, RewardConfig
from rlhf_jax.rewards.limits import is_builtin
from rlhf_jax.rewards.registry import REWARDS
from rlhf_jax.rewards.scoring import Rewards, RewardScores, make_rewards
from rlhf_jax.rewards.trust import fingerprint, untrusted

__all__ = [
    "REWARDS",
    "PoolConfig",
    "RewardConfig",
    "RewardScores",
    "Rewards",
    "TrainerState",
    "answer_of",
    "fingerprint",
    "is_builtin",
    "make_rewards",
    "target_of",
    "untrusted",
]
