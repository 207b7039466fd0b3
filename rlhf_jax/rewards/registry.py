"""The built-in reward functions by name."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf_jax.rewards.basic import (
    check_targets,
    exact_match_reward,
    format_reward,
    length_reward,
    overlong_reward,
    repetition_reward,
    think_format_reward,
)
from rlhf_jax.rewards.code import check_tests, code_reward
from rlhf_jax.rewards.config import RewardConfig
from rlhf_jax.rewards.countdown import check_numbers, countdown_reward
from rlhf_jax.rewards.math import math_reward
from rlhf_jax.rewards.programs import check_hidden, programs_reward
from rlhf_jax.rewards.safety import check_safety, harmful_reward, safety_reward

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
    "programs": programs_reward,
    "safety": safety_reward,
    "harmful": harmful_reward,
}
"""Name -> function with TRL's signature."""

INLINE = frozenset(
    "exact_match think_format length repetition overlong countdown programs safety harmful".split()
)
"""Run in the main process: microseconds a completion, and nothing in them can hang. All others run
in the pool."""

SANDBOXED = frozenset({"code"})
"""Need the sandbox (`rlhf_jax.rewards.code`)."""

COLUMN_CHECKS: dict[str, Callable[[Mapping[str, Sequence[Any]]], None]] = {
    "math": check_targets,
    "exact_match": check_targets,
    "code": check_tests,
    "countdown": check_numbers,
    "programs": check_hidden,
    "safety": check_safety,
    "harmful": check_safety,
}
"""Name -> raises ValueError when the data lacks a column that the function reads."""

LIMITED = frozenset({"math", "format"})
"""Have a limit of processor time of their own: an answer that needs more is wrong, however busy the
machine is."""

VERIFIABLE = frozenset(COLUMN_CHECKS) - {"harmful"}
"""Tell right from wrong by the row: whole batches of 0 mean that the row or the answer is not read
as it should be."""

MODEL = "model"
"""`function` of a reward that is a reward model (`rlhf_jax.rewards.model`); its option `path` names
the folder."""


def model_path(reward: RewardConfig) -> str:
    """The folder or hub id of a reward model."""
    unknown = sorted(set(reward.options) - {"path"})
    if unknown or not isinstance(reward.options.get("path"), str):
        given = f"has the unknown option {unknown[0]!r}" if unknown else "lacks its option path"
        raise ValueError(
            f"rewards: the reward model {reward.label!r} {given}; write {{function: model, "
            f"options: {{path: FOLDER}}}}"
        )
    return str(reward.options["path"])
