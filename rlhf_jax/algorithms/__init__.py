"""Algorithms: one file each, with a configuration, a loss on arrays, and `make(config, model) ->
Algorithm`.

To add one: write the file, add its line to `ALGORITHMS`, document its metrics in `metrics.METRICS`.
"""

from collections.abc import Callable
from typing import Any, get_type_hints

from rlhf_jax.algorithms import dapo, dpo, grpo, ppo, reward_model, sft
from rlhf_jax.algorithms.dapo import DAPOConfig, dapo_loss
from rlhf_jax.algorithms.dpo import DPOConfig, dpo_loss
from rlhf_jax.algorithms.grpo import GRPOConfig, grpo_loss
from rlhf_jax.algorithms.metrics import METRICS
from rlhf_jax.algorithms.ppo import PPOConfig, ppo_loss
from rlhf_jax.algorithms.reward_model import RewardModelConfig, pairwise_reward_loss
from rlhf_jax.algorithms.sft import SFTConfig, sft_loss
from rlhf_jax.ops.checks import check_choice
from rlhf_jax.types import Algorithm

ALGORITHMS: dict[str, Callable[[Any, Any], Algorithm]] = {
    "sft": sft.make,
    "reward_model": reward_model.make,
    "dpo": dpo.make,
    "ppo": ppo.make,
    "grpo": grpo.make,
    "dapo": dapo.make,
}


def algorithm_config(name: str) -> type:
    """The configuration class of an algorithm, read from the signature of its `make`.

    Args:
      name: a key of `ALGORITHMS`.

    Returns:
      The frozen dataclass.

    Raises:
      ValueError: unknown name.
    """
    check_choice("algorithm", name, tuple(ALGORITHMS))
    return get_type_hints(ALGORITHMS[name])["config"]


def default_learning_rate(cls: type) -> float | None:
    """What `optimizer.learning_rate` is when a run does not give one.

    Args:
      cls: the configuration class of an algorithm.

    Returns:
      Its class variable `learning_rate`; None: it has none.
    """
    rate = vars(cls).get("learning_rate")
    return None if rate is None else float(rate)


__all__ = [
    "ALGORITHMS",
    "METRICS",
    "DAPOConfig",
    "DPOConfig",
    "GRPOConfig",
    "PPOConfig",
    "RewardModelConfig",
    "SFTConfig",
    "algorithm_config",
    "dapo_loss",
    "default_learning_rate",
    "dpo_loss",
    "grpo_loss",
    "pairwise_reward_loss",
    "ppo_loss",
    "sft_loss",
]
