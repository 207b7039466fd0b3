"""From completions to grades: text for the reward functions, tokens for reward models."""

import collections
import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np

from rlhf_jax.data import FastTokenizer, PromptBatch
from rlhf_jax.errors import TrainingError
from rlhf_jax.fields import documented
from rlhf_jax.io import COMPLETION_COLUMNS
from rlhf_jax.rewards import (
    PoolConfig,
    RewardConfig,
    Rewards,
    RewardScores,
    TrainerState,
    make_rewards,
)
from rlhf_jax.rewards.answers import OPENED_COLUMN, opens_reasoning
from rlhf_jax.rewards.judging import Judge
from rlhf_jax.rewards.registry import MODEL
from rlhf_jax.rewards.watch import RewardWatch
from rlhf_jax.rollout import Sampled
from rlhf_jax.sharding.processes import count, exchange, gathered, own_part
from rlhf_jax.types import Rollout

_TAIL = 16
"""Last tokens of a prompt in which an open ``<think>`` is looked for."""


@documented
class Grades(NamedTuple):
    """What a batch of N completions is worth."""

    total: np.ndarray
    """float32 [N]; NaN = could not be graded."""
    per_reward: np.ndarray
    """float32 [N, R], each reward's own value, in the order of the configuration."""
    failures: Mapping[str, int]
    """"label/kind" -> completions."""
    texts: list[str]
    opened: np.ndarray
    """bool [N]: the rendered prompt ends in ``<think>``, the completion starts inside the block."""
    scores: RewardScores | None = None
    """Of the functions on the host, with what they logged; None: there are none."""

    @property
    def logged(self) -> dict[str, float]:
        """ "label/name" -> what reward functions logged as a metric."""
        return {} if self.scores is None else self.scores.metrics

    @property
    def extra(self) -> dict[str, list[Any]]:
        """Columns that reward functions logged, N values each."""
        return {} if self.scores is None else self.scores.extra


@runtime_checkable
class Grader(Protocol):
    """Grades completions. The built-in one is `RewardGrader`; a stub or a server is another."""

    names: tuple[str, ...]
    """Of the rewards, R of them."""
    judge: Judge
    """Which of them say right (> 0) or wrong of what is trained on."""
    held_out: Judge
    """The same at evaluation."""

    def __call__(
        self, prompts: PromptBatch, sampled: Sampled, *, state: TrainerState, training: bool
    ) -> Grades:
        """Grades the completions of some prompts, one per row of `sampled`.

        Args:
          prompts: P prompts and their columns.
          sampled: P * G completions.
          state: where training is.
          training: they are trained on, not evaluated.

        Raises:
          TrainingError: the rewards do not grade any more.
        """
        ...


class RewardGrader:
    """All rewards of a run, a context manager (some run in processes of their own).

    Attributes:
      names: label of each reward.
      judge: which rewards say right (> 0) or wrong of what is trained on.
      held_out: the same at evaluation.
      divided: it divides batches among the processes of a run itself.
    """

    def __init__(
        self,
        rewards: Sequence[RewardConfig],
        pool: PoolConfig,
        tokenizer: FastTokenizer,
        *,
        models: Mapping[str, Callable[[Any, Any], np.ndarray]],
        judge: Judge,
        held_out: Judge,
        skip_special_tokens: bool = True,
        divided: bool = False,
    ) -> None:
        """Remembers what to grade with.

        Args:
          rewards: of the run; none: every completion is worth 0.
          pool: processes of the reward functions.
          tokenizer: of the policy.
          models: label -> (tokens, mask) -> scores, of the rewards that are models.
          judge: of what is trained on.
          held_out: of evaluations.
          skip_special_tokens: leave special tokens out of the text that rewards see.
          divided: all processes of a run grade the same batches, each a part of them, and get all
            grades (`make_rewards`). False: what this one is given is its own affair.
        """
        self._configs = tuple(rewards)
        self._pool_config = pool
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self.divided = divided
        self._models = dict(models)
        self._watch = RewardWatch(self._configs, pool)
        self.names = tuple(reward.label for reward in self._configs)
        self.judge = judge
        self.held_out = held_out
        self._host: Rewards | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        host = [reward for reward in self._configs if reward.function != MODEL]
        if host:
            self._host = self._stack.enter_context(
                make_rewards(
                    host, self._pool_config, reserved=COMPLETION_COLUMNS, divided=self.divided
                )
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

    def __call__(
        self, prompts: PromptBatch, sampled: Sampled, *, state: TrainerState, training: bool
    ) -> Grades:
        """See `Grader`. A training batch is also looked at as a whole (`rewards.watch`)."""
        rollout = sampled.rollout
        tokens = np.asarray(rollout.tokens)
        rows = len(tokens)
        chosen = np.asarray(rollout.completion_mask)
        ids = [row[own].tolist() for row, own in zip(tokens, chosen, strict=True)]
        texts = [self._tokenizer.decode_answer(row, self._skip_special_tokens) for row in ids]
        group_size = rows // len(prompts.prompts)
        opened = opened_by_prompt(self._tokenizer, prompts).repeat(group_size)
        if not self._configs:
            empty = np.zeros((rows, 0), np.float32)
            return Grades(np.zeros(rows, np.float32), empty, {}, texts, opened)
        columns = columns_of(prompts, opened)
        total: np.ndarray = np.full(rows, np.nan, np.float32)
        failed = np.zeros(rows, bool)
        by_name: dict[str, np.ndarray] = {}
        scores: RewardScores | None = None
        if self._host is not None:
            repeated = [prompt for prompt in prompts.prompts for _ in range(group_size)]
            completions = shown_completions(repeated, sampled, texts)
            scores = self._host.score(repeated, completions, ids, columns, state=state)
            total = scores.total.copy()
            by_name = dict(scores.by_name)
            failed = scores.spoiled
        for reward in self._configs:
            if reward.label in self._models:
                value = self._models[reward.label](tokens, np.asarray(rollout.mask))[:rows]
                by_name[reward.label] = value
                failed = failed | ((reward.weight != 0) & ~np.isfinite(value))
                known = np.where(np.isnan(total), 0, total)
                total = known + np.float32(reward.weight) * np.nan_to_num(value)
        total = np.where(failed | ~np.isfinite(total), np.nan, total).astype(np.float32)
        per_reward = np.stack([by_name[name] for name in self.names], axis=1)
        failures = {} if scores is None else dict(scores.failures)
        if training:
            # The answers are read as the rewards read them.
            problem = self._watch.note(total, scores, texts, columns)
            if problem:
                raise TrainingError(problem)
        return Grades(total, per_reward, failures, texts, opened, scores)


def shown_completions(prompts: Sequence[Any], sampled: Sampled, texts: Sequence[str]) -> list[Any]:
    """What reward functions get as completions: text of a text, messages of a conversation."""
    if sampled.conversations is not None:
        return list(sampled.conversations)
    return [
        text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        for prompt, text in zip(prompts, texts, strict=True)
    ]


def opened_by_prompt(tokenizer: FastTokenizer, prompts: PromptBatch) -> np.ndarray:
    """Which prompts, as the chat template rendered them, end inside a block ``<think>``: bool
    [P]."""
    tails = [
        tokenizer.decode(row[max(0, length - _TAIL) : length].tolist())
        for row, length in zip(np.asarray(prompts.tokens), np.asarray(prompts.lengths), strict=True)
    ]
    return np.array([opens_reasoning(tails, {}, i) for i in range(len(tails))], bool)


def columns_of(prompts: PromptBatch, opened: np.ndarray) -> dict[str, list[Any]]:
    """The data's columns, a value per completion, and which completions begin inside a block."""
    group_size = len(opened) // len(prompts.prompts)
    columns: dict[str, list[Any]] = {
        name: [value for value in values for _ in range(group_size)]
        for name, values in prompts.columns.items()
    }
    if opened.any():
        columns[OPENED_COLUMN] = opened.tolist()
    return columns


class Divided:
    """A grader of one's own in a run of several processes: each grades its part of the prompts, and
    every one gets all grades (and not what functions logged besides). What fails in one is raised
    in all.

    Attributes:
      names, judge, held_out: the grader's.
    """

    def __init__(self, grader: Grader) -> None:
        """Wraps a grader.

        Raises:
          ValueError: it divides by itself, so that each part would be divided again.
        """
        if isinstance(grader, RewardGrader) and grader.divided:
            raise ValueError(
                "the grader divides batches among the processes by itself: make it with "
                "divided=False, or use it as it is"
            )
        self.names = grader.names
        self.judge = grader.judge
        self.held_out = grader.held_out
        self._grader = grader
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if isinstance(self._grader, contextlib.AbstractContextManager):
            self._stack.enter_context(self._grader)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def __call__(
        self, prompts: PromptBatch, sampled: Sampled, *, state: TrainerState, training: bool
    ) -> Grades:
        """See `Grader`."""
        own = np.array(own_part(len(prompts.prompts)), np.int64)
        rows = rows_of(own, len(sampled.rollout.tokens) // len(prompts.prompts))

        def part() -> tuple[np.ndarray, Grades | None]:
            if not len(own):
                return rows, None
            mine = take_rows(sampled, rows)
            return rows, self._grader(
                take_prompts(prompts, own), mine, state=state, training=training
            )

        return join_grades([found for found in gathered("grades", part) if found[1] is not None])


def rows_of(prompts: np.ndarray, group_size: int) -> np.ndarray:
    """Numbers of the completions of some prompts, group-major."""
    return (prompts[:, None] * group_size + np.arange(group_size)).reshape(-1)


def take_prompts(prompts: PromptBatch, index: np.ndarray) -> PromptBatch:
    """Some of the prompts."""
    places = index.tolist()
    columns = {
        name: [values[place] for place in places] for name, values in prompts.columns.items()
    }
    return PromptBatch(
        prompts.indices[index],
        prompts.tokens[index],
        prompts.lengths[index],
        [prompts.prompts[place] for place in places],
        columns,
    )


def take_rows(sampled: Sampled, rows: np.ndarray) -> Sampled:
    """Some completions."""
    arrays: list[Any] = [np.asarray(x)[rows] for x in sampled.rollout]
    conversations = sampled.conversations
    if conversations is not None:
        conversations = [conversations[row] for row in rows.tolist()]
    return sampled._replace(rollout=Rollout(*arrays), conversations=conversations)


def join_grades(parts: Sequence[tuple[np.ndarray, Any]]) -> Grades:
    """Grades of all rows, of parts of them.

    Args:
      parts: (numbers of its rows, its `Grades`).
    """
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    grades: list[Grades] = [found for _, found in parts]
    texts = [text for part in grades for text in part.texts]
    failures: collections.Counter[str] = collections.Counter()
    for part in grades:
        failures.update(part.failures)

    def joined(field: str) -> np.ndarray:
        return np.concatenate([part._asdict()[field] for part in grades])[order]

    return Grades(
        joined("total"),
        joined("per_reward"),
        dict(failures),
        [texts[place] for place in order.tolist()],
        joined("opened"),
    )


def check_agreement(rollout: Rollout, grades: Grades) -> None:
    """Refuses completions or grades that differ between the processes of a run: from here on each
    decides by its own, and they must decide the same.

    Raises:
      TrainingError: in all of them.
    """
    if count() == 1:
        return
    parts = (rollout.tokens, rollout.completion_mask, grades.total, grades.per_reward)
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in parts))
    seen = exchange("completions and grades", digest.hexdigest())
    other = next((number for number, found in enumerate(seen) if found != seen[0]), None)
    if other is not None:
        raise TrainingError(
            f"process {other} has other completions or grades than process 0: a sampler, an "
            "environment or a grader of one's own must give the same in every process, or draw by "
            "the key that it gets"
        )


def sums_of(
    names: Sequence[str], grades: Grades, sampled: Sampled, *, groups: int
) -> dict[str, float]:
    """Sums of one generation batch, of which several make a training batch."""
    counters = {
        "data/generation_batches": 1.0,
        "data/groups_generated": float(groups),
        "tokens": float(sampled.stats.tokens),
        "slot_steps": float(sampled.stats.slot_steps),
    }
    for place, name in enumerate(names):
        values = grades.per_reward[..., place]
        counters[f"sum/{name}"] = float(np.nansum(values))
        counters[f"count/{name}"] = float((~np.isnan(values)).sum())
    for name, number in grades.failures.items():
        counters[f"rewards/failed/{name}"] = float(number)
    for name, value in grades.logged.items():
        counters[f"sum/{name}"] = value
        counters[f"count/{name}"] = 1.0
    return counters
