"""Completions sampled from a policy: sampling, generation, batching, turns with an environment."""

from rlhf_jax.rollout.config import RolloutConfig
from rlhf_jax.rollout.engine import GenerationStats, Generator, make_generator
from rlhf_jax.rollout.environment import Environment, with_environment
from rlhf_jax.rollout.generate import generate
from rlhf_jax.rollout.programs import StringEnd, Watch
from rlhf_jax.rollout.sampler import GeneratorSampler, Sampled, Sampler
from rlhf_jax.rollout.sampling import SamplingParams

__all__ = [
    "Environment",
    "GenerationStats",
    "Generator",
    "GeneratorSampler",
    "RolloutConfig",
    "Sampled",
    "Sampler",
    "SamplingParams",
    "StringEnd",
    "Watch",
    "generate",
    "make_generator",
    "with_environment",
]
