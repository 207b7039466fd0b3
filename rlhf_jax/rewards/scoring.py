"""All reward functions of a run over one batch of completions.

`make_rewards` makes `Rewards`, whose `score` is all that a loop calls: it grades by every function
(in the pool, or here what is known to be quick, `INLINE`), adds up by weight (`_combined`) and
reports what could not be graded.
"""

import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.fields import documented
from rlhf_jax.handed import is_handed
from rlhf_jax.rewards.calls import GradingBatch, TrainerState
from rlhf_jax.rewards.code import isolation
from rlhf_jax.rewards.config import PoolConfig, RewardConfig
from rlhf_jax.rewards.limits import cpu_seconds, whole_batch
from rlhf_jax.rewards.loading import LoadedReward, check_name, load_reward
from rlhf_jax.rewards.local import LocalPool, inline_outcomes
from rlhf_jax.rewards.logged import mean_metrics, table_columns
from rlhf_jax.rewards.pool import Graded, Logged, Outcome, Pool
from rlhf_jax.rewards.processes import Task
from rlhf_jax.rewards.registry import COLUMN_CHECKS, INLINE, SANDBOXED
from rlhf_jax.sharding.processes import gathered, is_leader, own_part

_log = logging.getLogger(__name__)
_NAN = float("nan")


@documented
class RewardScores(NamedTuple):
    """Grades of N completions."""

    total: np.ndarray
    """float32 [N], the weighted sum. A function that returned None for a completion does not take
    part in its sum (as in TRL); NaN when all of them did, or when one of non-zero weight failed
    (time, exception, crash)."""
    by_name: dict[str, np.ndarray]
    """Label -> float32 [N], unweighted; NaN = not graded."""
    failures: dict[str, int]
    """"label/kind" -> completions; kinds: timeout, error, crash, none (not graded), slow (graded 0
    for being too slow). Only those that occurred."""
    spoiled: np.ndarray
    """bool [N]: a function of non-zero weight failed, so that no sum is worth anything."""
    messages: dict[str, str]
    """"label/kind" -> what the first of them was, in one line."""
    extra: dict[str, list[Any]]
    """Columns that functions logged by `log_extra`, N values each (None where there is none)."""
    metrics: dict[str, float]
    """"label/name" -> mean of what functions logged by `log_metric`."""


class _Room(NamedTuple):
    """Functions that are called in one place."""

    indices: tuple[int, ...]
    """Of their configurations."""
    pool: Pool | LocalPool


class Rewards:
    """The reward functions of a run; a context manager. Made by `make_rewards`."""

    def __init__(
        self,
        configs: Sequence[RewardConfig],
        pool: PoolConfig,
        reserved: Collection[str],
        *,
        divided: bool = False,
    ) -> None:
        self._configs = tuple(configs)
        self._divided = divided
        self._reserved = frozenset(reserved)
        self._inline: dict[int, LoadedReward] = {}
        given = []
        pooled = []
        for index, config in enumerate(configs):
            check_name(config)
            cpu_seconds(config)
            if config.function in SANDBOXED:
                _check_sandbox(config)
            if config.function in INLINE:
                self._inline[index] = load_reward(config)
            elif is_handed(config.function):
                given.append(index)
            else:
                pooled.append(index)
        self._rooms: list[_Room] = []
        if given:
            self._rooms.append(_Room(tuple(given), LocalPool([configs[index] for index in given])))
        if pooled:
            self._rooms.append(_Room(tuple(pooled), Pool([configs[i] for i in pooled], pool)))
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
        *,
        state: TrainerState | None = None,
    ) -> RewardScores:
        """Grades a batch. May be called from any thread, one call at a time goes through.

        Args:
          prompts: N prompts, text or messages.
          completions: N completions, text or ``[{"role": "assistant", "content": ..}]``.
          completion_ids: N lists of tokens, EOS included.
          columns: data columns, N values each.
          state: where training is, for functions that name `trainer_state`; None: at its start.

        Raises:
          ValueError: unequal numbers of rows, or a function needs a column that the data does not
            have.
          RewardError: a function called with several completions returned no list with a grade for
            each.
          RewardProcessError: its processes end whenever they start.
        """
        self._check(prompts, completions, completion_ids, columns)
        batch = GradingBatch(prompts, completions, completion_ids, columns, state or TrainerState())
        with self._lock:
            outcomes: dict[int, list[Outcome]] = {}
            logged: list[Logged] = []
            for room in self._rooms:
                found, noted = self._outcomes(room, batch)
                outcomes |= found
                logged += noted
            for index, reward in self._inline.items():
                outcomes[index] = inline_outcomes(reward, batch)
            return self._combined(outcomes, logged, len(completions))

    def close(self) -> None:
        """Ends all processes; safe to call twice."""
        self._closed = True
        for room in self._rooms:
            room.pool.close()

    def __enter__(self) -> "Rewards":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        columns: Mapping[str, Sequence[Any]],
    ) -> None:
        if self._closed:
            raise ValueError(
                "these rewards are closed: score inside the `with make_rewards(..)` block"
            )
        lengths = {
            "prompts": len(prompts),
            "completions": len(completions),
            "completion_ids": len(completion_ids),
        }
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
            for room in self._rooms:
                if index not in room.indices:
                    continue
                required = room.pool.functions[room.indices.index(index)].required
                if lacking := [name for name in required if name not in columns]:
                    present = ", ".join(sorted(columns)) or "none"
                    raise ValueError(
                        f"reward {config.label!r} needs a column {lacking[0]!r}, the data has "
                        f"{present}: rename it with data.columns, or set it in the reward's options"
                    )

    def _outcomes(
        self, room: "_Room", batch: GradingBatch
    ) -> tuple[dict[int, list[Outcome]], list[Logged]]:
        """What the functions of a room find; where they are divided, those of all processes: each
        grades its part, and every one gets all."""
        rows = range(len(batch.completions))
        if not rows:
            return {index: [] for index in room.indices}, []
        parts = (
            gathered("rewards", lambda: self._own_outcomes(room, batch))
            if self._divided
            else [self._own_outcomes(room, batch)]
        )
        outcomes = {key: outcome for part in parts for key, outcome in part.outcomes.items()}
        logged = [log for part in parts for log in part.logged]
        by_index = {
            index: [outcomes[i, row] for row in rows] for i, index in enumerate(room.indices)
        }
        return by_index, [log._replace(function=room.indices[log.function]) for log in logged]

    def _own_outcomes(self, room: "_Room", batch: GradingBatch) -> Graded:
        """This process's part: all rows or, where they are divided, every so many of them, and, if
        it leads, what is called with whole batches, which only one can do."""
        rows = range(len(batch.completions))
        whole = {
            i
            for i, index in enumerate(room.indices)
            if len(rows) > 1 and whole_batch(self._configs[index])
        }
        own = own_part(len(rows)) if self._divided else rows
        tasks = [Task(i, own) for i in range(len(room.indices)) if i not in whole and own]
        if self._divided and not is_leader():
            whole = set()
        graded = room.pool.run(batch, tasks + [Task(i, rows, batched=True) for i in sorted(whole)])
        outcomes = graded.outcomes
        logged = graded.logged
        if failed := [i for i in sorted(whole) if any(outcomes[i, row].is_fault for row in rows)]:
            again = self._graded_apart(room, batch, failed, outcomes)
            outcomes.update(again.outcomes)
            logged += again.logged
        return Graded(outcomes, logged)

    def _graded_apart(
        self,
        room: "_Room",
        batch: GradingBatch,
        functions: Sequence[int],
        before: Mapping[tuple[int, int], Outcome],
    ) -> Graded:
        """Functions whose call with the whole batch failed: each completion alone, then the rest.

        Alone, the guilty ones are found; the innocent ones go together, since only there can the
        function compare them.
        """
        rows = range(len(batch.completions))
        for i in functions:
            fault = next(before[i, row] for row in rows if before[i, row].is_fault)
            self._report_split(self._configs[room.indices[i]].label, fault.message)
        alone = room.pool.run(batch, [Task(i, rows, last=True) for i in functions])
        innocent = {
            i: [row for row in rows if not alone.outcomes[i, row].is_fault] for i in functions
        }
        innocent = {i: good for i, good in innocent.items() if 1 < len(good) < len(rows)}
        together = room.pool.run(
            batch, [Task(i, good, batched=True) for i, good in innocent.items()]
        )
        whole = {
            i
            for i, good in innocent.items()
            if not any(together.outcomes[i, row].is_fault for row in good)
        }
        outcomes = alone.outcomes | {
            key: outcome for key, outcome in together.outcomes.items() if key[0] in whole
        }
        logged = [log for log in alone.logged if log.function not in whole]
        return Graded(outcomes, logged + [log for log in together.logged if log.function in whole])

    def _combined(
        self, outcomes: Mapping[int, Sequence[Outcome]], logged: Sequence[Logged], count: int
    ) -> RewardScores:
        total = np.zeros(count, np.float64)
        counted = np.zeros(count, bool)
        spoiled = np.zeros(count, bool)
        by_name: dict[str, np.ndarray] = {}
        failures: dict[str, int] = {}
        messages: dict[str, str] = {}
        for index, config in enumerate(self._configs):
            values = np.array([outcome.value for outcome in outcomes[index]], np.float64).reshape(
                count
            )
            graded = ~np.isnan(values)
            by_name[config.label] = values.astype(np.float32)
            total += np.where(graded, config.weight * np.where(graded, values, 0.0), 0.0)
            counted |= graded
            for row, outcome in enumerate(outcomes[index]):
                if outcome.failure is not None:
                    key = f"{config.label}/{outcome.failure}"
                    failures[key] = failures.get(key, 0) + 1
                    messages.setdefault(key, outcome.message)
                    spoiled[row] |= outcome.is_fault and config.weight != 0
                    self._report(key, outcome)
        for log in logged:
            for refused in log.refused:
                self._report_refused(self.names[log.function], refused)
        total = np.where(counted & ~spoiled, total, _NAN).astype(np.float32)
        extra = table_columns(logged, self.names, count, reserved=self._reserved)
        metrics = mean_metrics(logged, self.names)
        return RewardScores(total, by_name, failures, spoiled, messages, extra, metrics)

    @property
    def _is_silent(self) -> bool:
        """Another process has the same outcomes, and reports them."""
        return self._divided and not is_leader()

    def _report(self, key: str, outcome: Outcome) -> None:
        if key not in self._reported and not self._is_silent:
            self._reported.add(key)
            label, _, kind = key.rpartition("/")
            level = logging.INFO if kind == "none" else logging.WARNING
            verdict = "wrong (0)" if kind == "slow" else "not graded"
            _log.log(
                level,
                "reward %s %s: the completion is %s (more of the same are only counted)",
                label,
                outcome.message,
                verdict,
            )

    def _report_split(self, label: str, message: str) -> None:
        if f"{label} split" not in self._reported:
            self._reported.add(f"{label} split")
            _log.warning(
                "reward %s %s in its call with the whole batch: each completion is now graded by a "
                "call of its own, those without a fault then once more together (rewards.batched, "
                "reward_pool.batch_timeout)",
                label,
                message,
            )

    def _report_refused(self, label: str, refused: str) -> None:
        key = f"{label} {refused.partition(' got ')[0]}"
        if key not in self._reported and not self._is_silent:
            self._reported.add(key)
            _log.warning("reward %s: %s: left out", label, refused)


def make_rewards(
    configs: Sequence[RewardConfig],
    pool: PoolConfig | None = None,
    *,
    reserved: Collection[str] = (),
    divided: bool = False,
) -> Rewards:
    """Loads reward functions and starts the processes of those that need them.

    Built-ins that cannot hang (`rlhf_jax.rewards.registry.INLINE`) and functions that a program
    hands over (`local`) run in the calling process; when all are such, no process is started. Use
    it as a context manager, or call `close`; the processes also end with the calling process,
    however it ends.

    Args:
      configs: one or more, with different labels.
      pool: None: the defaults.
      reserved: columns that the table of completions has anyway; one that a function logs under
        such a name is called ``label/column``.
      divided: in a run of several processes each grades a part and gets all grades. All must then
        score the same batches in the same order.

    Raises:
      ValueError: one line; a function or an option that does not exist, two equal labels.
      RewardProcessError: the processes end while they start.
    """
    if not configs:
        raise ValueError("rewards is empty: give at least one reward function")
    labels = [config.label for config in configs]
    if double := {label for label in labels if labels.count(label) > 1}:
        raise ValueError(
            f"rewards.name {sorted(double)[0]!r} occurs twice: give each reward a name of its own"
        )
    return Rewards(configs, pool or PoolConfig(), reserved, divided=divided)


def _check_sandbox(config: RewardConfig) -> None:
    namespaces = (
        "and namespaces" if isolation() else "without namespaces, which this system does not allow"
    )
    _log.info(
        "reward %s: the sandbox was tried and holds: limits, Landlock, seccomp %s",
        config.label,
        namespaces,
    )
