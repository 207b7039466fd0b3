"""From completions to rewards: text for the reward functions, tokens for reward models."""

import contextlib
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from jax.sharding import Mesh

from rlhf_jax.config import Config
from rlhf_jax.data import FastTokenizer, PromptBatch
from rlhf_jax.io import COMPLETION_COLUMNS
from rlhf_jax.loops.errors import TrainingError
from rlhf_jax.loops.judging import Tasks, Verdict, held_out_judge, training_judge
from rlhf_jax.loops.setup import context_of
from rlhf_jax.loops.thinking import opened_by_prompt
from rlhf_jax.models import load_pretrained
from rlhf_jax.rewards import RewardConfig, Rewards, RewardScores, TrainerState, make_rewards
from rlhf_jax.rewards.answers import OPENED_COLUMN
from rlhf_jax.rewards.model import make_model_rewards
from rlhf_jax.rewards.registry import MODEL, model_path
from rlhf_jax.rewards.watch import RewardWatch
from rlhf_jax.types import Rollout

_log = logging.getLogger(__name__)


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
    scores: RewardScores | None
    """Of the functions on the host, with what they logged; None when all rewards are models."""


class Grader:
    """All rewards of a run, a context manager (some run in processes of their own).

    Attributes:
      names: label of each reward.
      state: where training is, as functions are told that ask for `trainer_state`; the loop sets
        it.
      judge: which rewards say right (> 0) or wrong of what is trained on.
      held_out: the same at evaluation.
      told_unjudged: a warning was given about groups that no judge grades.
    """

    def __init__(self, config: Config, tokenizer: FastTokenizer, *, mesh: Mesh) -> None:
        self._configs, self._pool_config = config.rewards, config.reward_pool
        self._tokenizer, self._skip_special_tokens = tokenizer, config.rollout.skip_special_tokens
        self.names = tuple(reward.label for reward in config.rewards)
        self._models = {
            reward.label: load_reward_model(reward, config, tokenizer, mesh=mesh)
            for reward in config.rewards
            if reward.function == MODEL
        }
        self.state = TrainerState()
        self._watch = RewardWatch(config.rewards, config.reward_pool)
        self.judge, self.held_out = training_judge(config), held_out_judge(config)
        self.told_unjudged = False
        self._host: Rewards | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        host = [reward for reward in self._configs if reward.function != MODEL]
        if host:
            self._host = self._stack.enter_context(
                make_rewards(host, self._pool_config, reserved=COMPLETION_COLUMNS)
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._host = None
        self._stack.__exit__(kind, error, trace)

    def grade(self, prompts: PromptBatch, rollout: Rollout, *, real: int | None = None) -> Grades:
        """Grades the completions of a rollout.

        Args:
          prompts: P prompts and their columns.
          rollout: NumPy arrays of P * G rows.
          real: prompts that are graded, the first ones; the others only complete a shape. None:
            all.
        """
        real = len(prompts.prompts) if real is None else real
        group_size = len(rollout.tokens) // len(prompts.prompts)
        rows = real * group_size
        ids = [
            row[mask].tolist()
            for row, mask in zip(rollout.tokens[:rows], rollout.completion_mask[:rows], strict=True)
        ]
        texts = [self._tokenizer.decode_answer(row, self._skip_special_tokens) for row in ids]
        repeated = [prompt for prompt in prompts.prompts[:real] for _ in range(group_size)]
        completions: list[Any] = [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(repeated, texts, strict=True)
        ]
        columns = {
            name: [value for value in values[:real] for _ in range(group_size)]
            for name, values in prompts.columns.items()
        }
        opened = opened_by_prompt(self._tokenizer, prompts)[:real].repeat(group_size)
        if opened.any():
            columns[OPENED_COLUMN] = opened.tolist()
        total: np.ndarray = np.full(rows, np.nan, np.float32)
        spoiled = np.zeros(rows, bool)
        by_name: dict[str, np.ndarray] = {}
        failures: dict[str, int] = {}
        scores = None
        if self._host is not None:
            scores = self._host.score(repeated, completions, ids, columns, state=self.state)
            total, by_name, failures = (
                scores.total.copy(),
                dict(scores.by_name),
                dict(scores.failures),
            )
            spoiled = scores.spoiled
        for reward in self._configs:
            if reward.label in self._models:
                scores_of = self._models[reward.label]
                by_name[reward.label] = scores_of(
                    np.asarray(rollout.tokens), np.asarray(rollout.mask)
                )[:rows]
                value = by_name[reward.label]
                spoiled = spoiled | ((reward.weight != 0) & ~np.isfinite(value))
                total = np.where(np.isnan(total), 0, total) + np.float32(
                    reward.weight
                ) * np.nan_to_num(value)
        total = np.where(spoiled | ~np.isfinite(total), np.nan, total).astype(np.float32)
        return Grades(
            total,
            np.stack([by_name[name] for name in self.names], axis=1),
            failures,
            texts,
            opened,
            scores,
        )

    def check(self, prompts: PromptBatch, grades: Grades) -> None:
        """Looks at a graded training batch as a whole; warns where it looks wrong.

        Raises:
          TrainingError: the rewards do not grade any more (`reward_pool.max_failed`,
            `max_ungraded`).
        """
        size = len(grades.total) // len(prompts.prompts)
        columns = {
            name: [value for value in values for _ in range(size)]
            for name, values in prompts.columns.items()
        }
        if grades.opened.any():  # the answers are read as the rewards read them
            columns[OPENED_COLUMN] = grades.opened.tolist()
        if problem := self._watch.note(grades.total, grades.scores, grades.texts, columns):
            raise TrainingError(problem)

    def correct(self, grades: np.ndarray, parts: np.ndarray, tasks: Tasks | None = None) -> Verdict:
        """(right, judged): which completions are right, before any penalty, and of which that is
        known.

        Args:
          grades: float [...], total rewards.
          parts: float [..., R].
          tasks: what is known of the rewards by now (`Judge.learn`); None: what these completions
            tell.
        """
        return self.judge.correct(
            grades, parts, self.judge.learn(grades, parts, {}) if tasks is None else tasks
        )


def load_reward_model(
    reward: RewardConfig, config: Config, tokenizer: FastTokenizer, *, mesh: Mesh
) -> Callable[[Any, Any], np.ndarray]:
    """The reward model that a reward's option `path` names, on the policy's mesh.

    Raises:
      ValueError: no path, another option, or a model that embeds fewer tokens than the tokenizer
        has.
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
        context=context_of(config),
    )
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"rewards: the reward model {path} embeds {model.config.vocab_size} tokens and the "
            "policy's tokenizer has "
            f"{tokenizer.vocab_size}; a reward model must share the policy's tokenizer"
        )
    return make_model_rewards(model, params, mesh=mesh, rows_at_once=microbatch_rows(config))


def microbatch_rows(config: Config) -> int:
    """Rows of the trainer's microbatch, which the memory of a run is planned by."""
    algorithm, training = config.algorithm, config.training
    parts = algorithm.num_minibatches * training.num_microbatches
    return int(training.batch_size * algorithm.group_size // parts)
