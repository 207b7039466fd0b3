"""From completions to rewards: text for the reward functions, tokens for reward models."""

import contextlib
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from jax.sharding import Mesh

from rlhf_jax.algorithms import DAPOConfig
from rlhf_jax.config import Config
from rlhf_jax.data import FastTokenizer, PromptBatch
from rlhf_jax.loops.thinking import opened_by_prompt, warn_of_lost_tags
from rlhf_jax.models import load_pretrained
from rlhf_jax.rewards import RewardConfig, Rewards, make_rewards
from rlhf_jax.rewards.answers import OPENED_COLUMN
from rlhf_jax.rewards.model import make_model_rewards
from rlhf_jax.types import Rollout

_log = logging.getLogger(__name__)
MODEL = "model"
"""`function` of a reward that is a reward model; its option `path` names the folder."""


class Grades(NamedTuple):
    """What a batch of N completions is worth."""

    total: np.ndarray
    """float32 [N]; NaN = could not be graded."""
    parts: np.ndarray
    """float32 [N, R], in the order of the configuration."""
    failures: dict[str, int]
    """"label/kind" -> completions."""
    texts: list[str]
    opened: np.ndarray
    """bool [N]: the rendered prompt ends in ``<think>``, the completion starts inside the block."""


class Grader:
    """All rewards of a run, a context manager (some run in processes of their own).

    Attributes:
      names: label of each reward.
      accuracy: index of the reward that says right (> 0) or wrong; None when that one is a reward model.
    """

    def __init__(self, config: Config, tokenizer: FastTokenizer, *, mesh: Mesh, stop_ids: tuple[int, ...]) -> None:
        self._configs, self._pool_config = config.rewards, config.reward_pool
        self._tokenizer, self._stop_ids = tokenizer, frozenset(stop_ids)
        self.names = tuple(reward.label for reward in config.rewards)
        self._models = {
            reward.label: load_reward_model(reward, config, tokenizer, mesh=mesh)
            for reward in config.rewards
            if reward.function == MODEL
        }
        self.accuracy = accuracy_index(config)
        warn_of_lost_tags(tokenizer, config.rewards)
        self._host: Rewards | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        host = [reward for reward in self._configs if reward.function != MODEL]
        if host:
            self._host = self._stack.enter_context(make_rewards(host, self._pool_config))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._host = None
        self._stack.__exit__(kind, error, trace)

    def grade(self, prompts: PromptBatch, rollout: Rollout) -> Grades:
        """Grades the completions of a rollout.

        Args:
          prompts: P prompts and their columns.
          rollout: NumPy arrays of P * G rows.
        """
        rows = len(rollout.tokens)
        group_size = rows // len(prompts.prompts)
        ids = [row[mask].tolist() for row, mask in zip(rollout.tokens, rollout.completion_mask, strict=True)]
        texts = [self._tokenizer.decode(self._without_stop(row), skip_special_tokens=True) for row in ids]
        repeated = [prompt for prompt in prompts.prompts for _ in range(group_size)]
        completions: list[Any] = [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(repeated, texts, strict=True)
        ]
        columns = {name: [value for value in values for _ in range(group_size)] for name, values in prompts.columns.items()}
        opened = opened_by_prompt(self._tokenizer, prompts).repeat(group_size)
        if opened.any():
            columns[OPENED_COLUMN] = opened.tolist()
        total: np.ndarray = np.full(rows, np.nan, np.float32)
        spoiled = np.zeros(rows, bool)
        by_name: dict[str, np.ndarray] = {}
        failures: dict[str, int] = {}
        if self._host is not None:
            scores = self._host.score(repeated, completions, ids, columns)
            total, by_name, failures = scores.total.copy(), dict(scores.by_name), dict(scores.failures)
            spoiled = scores.spoiled
        for reward in self._configs:
            if reward.label in self._models:
                by_name[reward.label] = self._models[reward.label](np.asarray(rollout.tokens), np.asarray(rollout.mask))
                value = by_name[reward.label]
                spoiled = spoiled | ((reward.weight != 0) & ~np.isfinite(value))
                total = np.where(np.isnan(total), 0, total) + np.float32(reward.weight) * np.nan_to_num(value)
        total = np.where(spoiled | ~np.isfinite(total), np.nan, total).astype(np.float32)
        return Grades(total, np.stack([by_name[name] for name in self.names], axis=1), failures, texts, opened)

    def correct(self, grades: np.ndarray, parts: np.ndarray) -> np.ndarray:
        """Which completions are right: the accuracy reward, before any penalty, is positive. bool, shape of `grades`."""
        return np.nan_to_num(grades if self.accuracy is None else parts[..., self.accuracy], nan=0.0) > 0

    def _without_stop(self, ids: list[int]) -> list[int]:
        return ids[:-1] if ids and ids[-1] in self._stop_ids else ids


def accuracy_index(config: Config) -> int | None:
    """The reward that says right or wrong: the one DAPO names, else the first; None when that one is a reward model."""
    named = config.algorithm.accuracy_reward if isinstance(config.algorithm, DAPOConfig) else None
    labels = [reward.label for reward in config.rewards]
    index = 0 if named is None else labels.index(named)
    return None if config.rewards[index].function == MODEL else index


def load_reward_model(
    reward: RewardConfig, config: Config, tokenizer: FastTokenizer, *, mesh: Mesh
) -> Callable[[Any, Any], np.ndarray]:
    """The reward model that a reward's option `path` names, on the policy's mesh.

    Raises:
      ValueError: no path, another option, or a model that embeds fewer tokens than the tokenizer has.
    """
    path = model_path(reward)
    section = config.model
    model, params = load_pretrained(
        path,
        dtype=section.compute_dtype or section.dtype,
        mesh=mesh,
        replicate=config.mesh.replicate,
        layers=section.layers,
        attention=section.attention,
        head="reward",
    )
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"rewards: the reward model {path} embeds {model.config.vocab_size} tokens and the policy's tokenizer has "
            f"{tokenizer.vocab_size}; a reward model must share the policy's tokenizer"
        )
    return make_model_rewards(model, params, mesh=mesh)


def model_path(reward: RewardConfig) -> str:
    """The folder or hub id of a reward model."""
    unknown = sorted(set(reward.options) - {"path"})
    if unknown or not isinstance(reward.options.get("path"), str):
        given = f"has the unknown option {unknown[0]!r}" if unknown else "lacks its option path"
        raise ValueError(
            f"rewards: the reward model {reward.label!r} {given}; write {{function: model, options: {{path: FOLDER}}}}"
        )
    return str(reward.options["path"])
