"""Completions sampled from a policy: sampling, generation in one program, and continuous batching."""

from rlhf_jax.rollout.config import RolloutConfig

__all__ = ["RolloutConfig"]
