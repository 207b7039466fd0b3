"""One call of a reward function: what it gets, may log, returns. Runs in worker processes, for
functions that a program hands over in its own (`local`).

`grade_each`, `grade_async` and `grade_batch` are the three ways to call; all make the arguments by
`arguments`, read grades by `numbers_of` and send one message per completion. A fault of a
completion is a message, too; a fault of the function itself ends the run.
"""

import asyncio
import inspect
import math
import signal
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

from rlhf_jax.fields import documented
from rlhf_jax.rewards.errors import RewardError
from rlhf_jax.rewards.loading import LoadedReward

Send = Callable[[dict[str, Any]], None]
_own = threading.local()
"""One event loop for the life of a thread: async functions keep sessions that belong to it."""


@documented
@dataclass(frozen=True, kw_only=True)
class TrainerState:
    """What functions that name `trainer_state` are told: the fields of TRL's that they use."""

    global_step: int = 0
    """Training steps made."""
    max_steps: int = 0
    """Training steps of the whole run."""
    epoch: float = 0.0
    """Passes over the prompts."""
    num_train_epochs: int = 0
    """Passes that the configuration asks for."""
    is_world_process_zero: bool = True
    """Always true: functions are called where the run is led, or in any process for its part."""
    is_local_process_zero: bool = True
    """Likewise."""


class GradingBatch(NamedTuple):
    """Completions to grade. All fields but `state` have one entry per completion."""

    prompts: Sequence[Any]
    completions: Sequence[Any]
    completion_ids: Sequence[Sequence[int]]
    columns: Mapping[str, Sequence[Any]]
    state: TrainerState = TrainerState()

    def rows(self, rows: Sequence[int]) -> "GradingBatch":
        """The batch of some of the rows."""

        def pick(values: Sequence[Any]) -> list[Any]:
            return [values[i] for i in rows]

        columns = {name: pick(values) for name, values in self.columns.items()}
        return GradingBatch(
            pick(self.prompts),
            pick(self.completions),
            pick(self.completion_ids),
            columns,
            self.state,
        )

    def given(self) -> dict[str, Sequence[Any]]:
        """The arguments that are not data columns."""
        return {
            "prompts": self.prompts,
            "completions": self.completions,
            "completion_ids": self.completion_ids,
        }


class CallLog:
    """What a call has logged by `log_extra` and `log_metric`."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {}
        self._metrics: dict[str, list[float]] = {}

    def extra(self, column: str, values: Sequence[Any]) -> None:
        """TRL's `log_extra`: a column of the completions table, a value a completion."""
        self._columns.setdefault(str(column), []).extend(values)

    def metric(self, name: str, value: float) -> None:
        """TRL's `log_metric`: a number, averaged over the calls of a step."""
        self._metrics.setdefault(str(name), []).append(float(value))

    def send(self, rows: Sequence[int], send: Send) -> None:
        """Reports it with the task's rows that the call was about; nothing if empty."""
        whole = {
            name: [_plain(v) for v in values]
            for name, values in self._columns.items()
            if len(values) == len(rows)
        }
        refused = [
            f"log_extra({name!r}, ..) got {len(values)} values for {len(rows)} completions"
            for name, values in self._columns.items()
            if name not in whole
        ]
        metrics = {
            name: [v for v in values if math.isfinite(v)] for name, values in self._metrics.items()
        }
        refused += [
            f"log_metric({name!r}, ..) got no finite number"
            for name, values in metrics.items()
            if not values
        ]
        if whole or metrics or refused:
            send(
                {
                    "log": {
                        "rows": list(rows),
                        "extra": whole,
                        "metrics": metrics,
                        "refused": refused,
                    }
                }
            )


def grade_each(
    reward: LoadedReward, batch: GradingBatch, send: Send, timeout: float | None
) -> None:
    """Every completion by a call of its own, one after the other."""
    for row in range(len(batch.completions)):
        log = CallLog()
        try:
            if reward.cpu_seconds is not None:
                # Its default action ends the process, also inside a long C function, which no
                # exception would.
                signal.setitimer(signal.ITIMER_PROF, reward.cpu_seconds)
            answer: dict[str, Any] = {
                "value": numbers_of(_call(reward, batch.rows([row]), log), 1)[0]
            }
            log.send([row], send)
        except KeyboardInterrupt:  # of the person at the keyboard
            raise
        # also SystemExit: whatever a grader raises concerns one completion
        except BaseException as error:
            answer = {"slow" if _is_too_much(reward, error) else "error": describe(error)}
        finally:
            if reward.cpu_seconds is not None:
                signal.setitimer(signal.ITIMER_PROF, 0.0)
        send({"row": row} | answer)


def grade_async(
    reward: LoadedReward, batch: GradingBatch, send: Send, timeout: float | None
) -> None:
    """Every completion by a call of its own, all at once."""

    async def grade(row: int) -> None:
        log = CallLog()
        try:
            call = reward.function(**arguments(reward, batch.rows([row]), log))
            answer: dict[str, Any] = {
                "value": numbers_of(await asyncio.wait_for(call, timeout), 1)[0]
            }
            log.send([row], send)
        except TimeoutError:
            answer = {"timeout": True}
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # as above
            answer = {"error": describe(error)}
        send({"row": row} | answer)

    async def grade_all() -> None:
        await asyncio.gather(*(grade(row) for row in range(len(batch.completions))))

    _event_loop().run(grade_all())


def grade_batch(
    reward: LoadedReward, batch: GradingBatch, send: Send, timeout: float | None
) -> None:
    """All completions by one call. A result that is no list is nobody's fault: the run ends."""
    log = CallLog()
    rows = range(len(batch.completions))
    try:
        answers: list[dict[str, Any]] = [
            {"value": value} for value in numbers_of(_call(reward, batch, log), len(rows))
        ]
        log.send(rows, send)
    except RewardError as error:
        if len(rows) > 1:
            send({"refused": str(error)})
            return
        answers = [{"error": describe(error)}]
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # as above
        answers = [{"error": describe(error)}] * len(rows)
    for row, answer in enumerate(answers):
        send({"row": row} | answer)


def arguments(reward: LoadedReward, batch: GradingBatch, log: CallLog) -> dict[str, Any]:
    """Keyword arguments of one call. Built-ins get the data columns and nothing of TRL's."""
    given: dict[str, Any] = dict(batch.given())
    if not reward.is_builtin:
        given |= {"trainer_state": batch.state, "log_extra": log.extra, "log_metric": log.metric}
    return reward.arguments(given, batch.columns)


def numbers_of(result: Any, count: int) -> list[float | None]:
    """What a reward function returned, as `count` numbers or None (also for NaN).

    Raises:
      RewardError: it is no list of grades, or one of another length.
      TypeError, ValueError: an entry is no number, or infinite.
    """
    values = _listed(result)
    if len(values) != count:
        raise RewardError(f"returned {len(values)} values for {count} completions")
    numbers = [None if value is None else float(value) for value in values]
    for number in numbers:
        if number in (float("inf"), float("-inf")):
            raise ValueError(f"the reward function returned {number}")
    return [None if number is None or number != number else number for number in numbers]


def _listed(result: Any) -> list[Any]:
    """The entries of a result in order, one per completion; a generator's count too."""
    if result is None:
        raise RewardError("returned None instead of a list (is a `return` missing?)")
    if isinstance(result, Mapping):
        keys = ", ".join(repr(key) for key in list(result)[:3])
        raise RewardError(
            f"returned a {type(result).__name__} with the keys {keys or 'none'}, whose values have "
            "no order"
        )
    if inspect.isasyncgen(result):
        raise RewardError(
            "returned an asynchronous generator, whose values nobody awaits: return a list of them"
        )
    if isinstance(result, str | bytes | Set):
        raise RewardError(f"returned a {type(result).__name__} instead of a list")
    try:
        entries = iter(result)
    except TypeError:  # a single number, numpy's and torch's without dimensions included
        raise RewardError(f"returned a single {type(result).__name__} instead of a list") from None
    return list(entries)


def describe(error: BaseException) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def _call(reward: LoadedReward, batch: GradingBatch, log: CallLog) -> Any:
    result = reward.function(**arguments(reward, batch, log))
    # not asyncio's `iscoroutine`, which takes a generator for a coroutine
    return _event_loop().run(result) if inspect.iscoroutine(result) else result


def _event_loop() -> asyncio.Runner:
    if not hasattr(_own, "runner"):
        _own.runner = asyncio.Runner()
    return _own.runner


def close_event_loop() -> None:
    """Ends what async functions have left open in this thread."""
    if hasattr(_own, "runner"):
        _own.runner.close()
        del _own.runner


def _is_too_much(reward: LoadedReward, error: BaseException) -> bool:
    """Whether an answer asked for more memory, depth or digits than there are: it is wrong."""
    return reward.cpu_seconds is not None and isinstance(
        error, MemoryError | RecursionError | OverflowError
    )


def _plain(value: Any) -> Any:
    """A logged value as JSON: numbers, truth values and None as is, else text; no NaN."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()  # numpy's and torch's scalars
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value).encode("utf-8", "replace").decode()  # files hold no lone surrogates
