"""Completions sampled from a policy: sampling, generation in one program, and continuous batching."""

from rlhf_jax.rollout.config import RolloutConfig
from rlhf_jax.rollout.generate import generate
from rlhf_jax.rollout.sampling import SamplingParams

__all__ = ["RolloutConfig", "SamplingParams", "generate"]
