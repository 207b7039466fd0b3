"""All reward functions of a run over one batch of completions."""

import logging
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.rewards.config import PoolConfig, RewardConfig
from rlhf_jax.rewards.loading import LoadedReward, check_name, load_reward
from rlhf_jax.rewards.pool import Outcome, Pool
from rlhf_jax.rewards.processes import Task
from rlhf_jax.rewards.registry import COLUMN_CHECKS, INLINE, SANDBOXED
from rlhf_jax.rewards.sandbox import Limits, isolation
from rlhf_jax.rewards.worker import Batch, describe, numbers_of

_log = logging.getLogger(__name__)
_NAN = float("nan")


class RewardScores(NamedTuple):
    """Grades of N completions."""

    total: np.ndarray
    """float32 [N], the weighted sum. A function that returned None for a completion does not take part in its sum (as in TRL);
    NaN when all of them did, or when one of non-zero weight failed (time, exception, crash)."""
    by_name: dict[str, np.ndarray]
    """Label -> float32 [N], unweighted; NaN = not graded."""
    failures: dict[str, int]
    """"label/kind" -> completions; kinds: timeout, error, crash, none. Only those that occurred."""
    spoiled: np.ndarray
    """bool [N]: a function of non-zero weight failed, so that no sum is worth anything."""


class Rewards:
    """The reward functions of a run; a context manager. Made by `make_rewards`."""

    def __init__(self, configs: Sequence[RewardConfig], pool: PoolConfig) -> None:
        self._configs = tuple(configs)
        self._inline: dict[int, LoadedReward] = {}
        pooled = []
        for index, config in enumerate(configs):
            check_name(config)
            if config.function in SANDBOXED:
                _check_sandbox(config, pool)
            if config.function in INLINE:
                self._inline[index] = load_reward(config)
            else:
                pooled.append(index)
        self._pooled = tuple(pooled)
        self._pool = Pool([configs[index] for index in pooled], pool) if pooled else None
        self._lock = threading.Lock()
        self._reported: set[str] = set()
        self._closed = False

    @property
    def names(self) -> tuple[str, ...]:
        """Labels, in the order of the configuration."""
        return tuple(config.label for config in self._configs)

    def score(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        columns: Mapping[str, Sequence[Any]],
    ) -> RewardScores:
        """Grades a batch. May be called from any thread, one call at a time goes through.

        Args:
          prompts: N prompts, text or messages.
          completions: N completions, text or ``[{"role": "assistant", "content": ..}]``.
          completion_ids: N lists of tokens, EOS included.
          columns: data columns, N values each.

        Raises:
          ValueError: unequal numbers of rows, or a function needs a column that the data does not have.
        """
        self._check(prompts, completions, completion_ids, columns)
        batch = Batch(prompts, completions, completion_ids, columns)
        with self._lock:
            outcomes = self._pooled_outcomes(batch)
            for index, reward in self._inline.items():
                outcomes[index] = _inline_outcomes(reward, batch)
            return self._combined(outcomes, len(completions))

    def close(self) -> None:
        """Ends all processes; safe to call twice."""
        self._closed = True
        if self._pool is not None:
            self._pool.close()

    def __enter__(self) -> "Rewards":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _check(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        columns: Mapping[str, Sequence[Any]],
    ) -> None:
        if self._closed:
            raise ValueError("these rewards are closed: score inside the `with make_rewards(..)` block")
        lengths = {"prompts": len(prompts), "completions": len(completions), "completion_ids": len(completion_ids)}
        lengths |= {f"column {name}": len(values) for name, values in columns.items()}
        for name, length in lengths.items():
            if length != len(completions):
                raise ValueError(f"{name} has {length} rows for {len(completions)} completions")
        for index, config in enumerate(self._configs):
            if config.function in COLUMN_CHECKS:
                try:
                    COLUMN_CHECKS[config.function](columns)
                except ValueError as error:
                    raise ValueError(f"reward {config.label!r}: {error}") from None
            if index in self._pooled and self._pool is not None:
                required = self._pool.functions[self._pooled.index(index)].required
                if lacking := [name for name in required if name not in columns]:
                    present = ", ".join(sorted(columns)) or "none"
                    raise ValueError(
                        f"reward {config.label!r} needs a column {lacking[0]!r}, the data has {present}: rename it with "
                        "data.columns, or set it in the reward's options"
                    )

    def _pooled_outcomes(self, batch: Batch) -> dict[int, list[Outcome]]:
        if self._pool is None:
            return {}
        rows = range(len(batch.completions))
        tasks = [Task(i, rows, batched=self._configs[index].batched) for i, index in enumerate(self._pooled)]
        graded = self._pool.run(batch, tasks) if rows else {}
        return {index: [graded[i, row] for row in rows] for i, index in enumerate(self._pooled)}

    def _combined(self, outcomes: Mapping[int, Sequence[Outcome]], count: int) -> RewardScores:
        total, counted, spoiled = np.zeros(count, np.float64), np.zeros(count, bool), np.zeros(count, bool)
        by_name: dict[str, np.ndarray] = {}
        failures: dict[str, int] = {}
        for index, config in enumerate(self._configs):
            values = np.array([outcome.value for outcome in outcomes[index]], np.float64).reshape(count)
            graded = ~np.isnan(values)
            by_name[config.label] = values.astype(np.float32)
            total += np.where(graded, config.weight * np.where(graded, values, 0.0), 0.0)
            counted |= graded
            for row, outcome in enumerate(outcomes[index]):
                if outcome.failure is not None:
                    key = f"{config.label}/{outcome.failure}"
                    failures[key] = failures.get(key, 0) + 1
                    spoiled[row] |= outcome.failure != "none" and config.weight != 0
                    self._report(key, outcome)
        return RewardScores(np.where(counted & ~spoiled, total, _NAN).astype(np.float32), by_name, failures, spoiled)

    def _report(self, key: str, outcome: Outcome) -> None:
        if key not in self._reported:
            self._reported.add(key)
            label, _, kind = key.rpartition("/")
            level = logging.INFO if kind == "none" else logging.WARNING
            _log.log(
                level, "reward %s %s: the completion is not graded (more of the same are only counted)", label, outcome.message
            )


def make_rewards(configs: Sequence[RewardConfig], pool: PoolConfig | None = None) -> Rewards:
    """Loads reward functions and starts the processes of those that need them.

    Built-ins that cannot hang (`rlhf_jax.rewards.registry.INLINE`) run in the calling process; when all are, no process is
    started. Use it as a context manager, or call `close`; the processes also end with the calling process, however it ends.

    Args:
      configs: one or more, with different labels.
      pool: None: the defaults.

    Raises:
      ValueError: one line; a function or an option that does not exist, two equal labels.
      RuntimeError: the processes end while they start.
    """
    if not configs:
        raise ValueError("rewards is empty: give at least one reward function")
    labels = [config.label for config in configs]
    if double := {label for label in labels if labels.count(label) > 1}:
        raise ValueError(f"rewards.name {sorted(double)[0]!r} occurs twice: give each reward a name of its own")
    return Rewards(configs, pool or PoolConfig())


def _inline_outcomes(reward: LoadedReward, batch: Batch) -> list[Outcome]:
    try:
        values = numbers_of(reward.function(**reward.arguments(batch.given(), batch.columns)), len(batch.completions))
    except Exception as error:
        if len(batch.completions) == 1:
            return [Outcome(_NAN, "error", f"raised {describe(error)}")]
        return [_inline_outcomes(reward, batch.rows([row]))[0] for row in range(len(batch.completions))]
    return [Outcome(value) if value is not None else Outcome(_NAN, "none", "returned None") for value in values]


def _check_sandbox(config: RewardConfig, pool: PoolConfig) -> None:
    timeout = config.options.get("timeout", Limits().timeout)
    if timeout >= pool.timeout:
        raise ValueError(
            f"rewards.options.timeout {timeout} of {config.label!r} must be below reward_pool.timeout {pool.timeout}: slow code "
            "is wrong (0), a slow grader is a failure (not graded)"
        )
    namespaces = "and namespaces" if isolation() else "without namespaces, which this system does not allow"
    _log.info("reward %s: the sandbox was tried and holds: limits, Landlock, seccomp %s", config.label, namespaces)
