"""The built-in reward functions by name."""

from collections.abc import Callable
from typing import Any

from rlhf_jax.rewards.basic import (
    exact_match_reward,
    format_reward,
    length_reward,
    overlong_reward,
    repetition_reward,
    think_format_reward,
)
from rlhf_jax.rewards.code import code_reward
from rlhf_jax.rewards.countdown import countdown_reward
from rlhf_jax.rewards.math import math_reward

REWARDS: dict[str, Callable[..., Any]] = {
    "math": math_reward,
    "exact_match": exact_match_reward,
    "think_format": think_format_reward,
    "format": format_reward,
    "length": length_reward,
    "repetition": repetition_reward,
    "overlong": overlong_reward,
    "code": code_reward,
    "countdown": countdown_reward,
}
"""Name -> function with TRL's signature."""

INLINE = frozenset({"exact_match", "think_format", "length", "repetition", "overlong", "countdown"})
"""Run in the main process: microseconds a completion, and nothing in them can hang. All others run in the pool."""

NEEDS_TARGET = frozenset({"math", "exact_match"})
"""Read a column with the right answer (`rlhf_jax.rewards.answers.targets_of`)."""

SANDBOXED = frozenset({"code"})
"""Need the sandbox (`rlhf_jax.rewards.sandbox`), a column with tests, and a time limit below the pool's."""
