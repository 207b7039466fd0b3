"""Completions sampled from a policy: sampling, generation as one program, continuous batching."""

from rlhf_jax.rollout.config import RolloutConfig
from rlhf_jax.rollout.engine import GenerationStats, Generator, make_generator
from rlhf_jax.rollout.generate import generate
from rlhf_jax.rollout.programs import StringEnd
from rlhf_jax.rollout.sampling import SamplingParams

__all__ = [
    "GenerationStats",
    "Generator",
    "RolloutConfig",
    "SamplingParams",
    "StringEnd",
    "generate",
    "make_generator",
]
