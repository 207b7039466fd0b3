"""Reward functions that a program hands over, called in its own process.

A function of a notebook, a lambda or a closure exists nowhere else: no other process could import
it. So there is neither a sandbox nor a time limit; it may use whatever the program has (the
debugger, too), and what it remembers stays where the program can look at it.
"""

import concurrent.futures
import functools
import hashlib
import inspect
import pickle
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf_jax.handed import handed
from rlhf_jax.rewards.calls import (
    GradingBatch,
    close_event_loop,
    describe,
    grade_async,
    grade_batch,
    grade_each,
    numbers_of,
)
from rlhf_jax.rewards.config import RewardConfig
from rlhf_jax.rewards.loading import LoadedReward, load_reward
from rlhf_jax.rewards.pool import NAN, Function, Graded, Logged, Outcome, outcome_of, refusal
from rlhf_jax.rewards.processes import Task


class LocalPool:
    """What `Pool` does, without processes.

    Args:
      rewards: the functions, numbered in this order.

    Raises:
      ValueError: a function cannot be used.
    """

    def __init__(self, rewards: Sequence[RewardConfig]) -> None:
        self._rewards = tuple(rewards)
        self._loaded = [load_reward(reward) for reward in rewards]
        self.functions = [Function(reward.required, reward.is_async) for reward in self._loaded]
        # In a notebook an event loop runs already where this is called: one more needs a thread.
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None
        if any(reward.is_async for reward in self._loaded):
            self._thread = concurrent.futures.ThreadPoolExecutor(1, "rewards")

    def run(self, batch: GradingBatch, tasks: Sequence[Task]) -> Graded:
        """Grades a batch; see `Pool.run`."""
        graded = Graded({}, [])
        for task in tasks:
            # A copy, as a process would have: a function may change what it gets.
            self._run(task, pickle.loads(pickle.dumps(batch.rows(task.rows))), graded)
        return graded

    def close(self) -> None:
        """Ends the thread of asynchronous functions; safe to call twice."""
        if self._thread is not None:
            self._thread.submit(close_event_loop).result()
            self._thread.shutdown()
            self._thread = None

    def _run(self, task: Task, batch: GradingBatch, graded: Graded) -> None:
        reward = self._loaded[task.function]
        one_by_one = grade_async if reward.is_async else grade_each
        grade = grade_batch if task.batched else one_by_one
        said: list[dict[str, Any]] = []
        call = functools.partial(grade, reward, batch, said.append, None)
        if self._thread is not None and reward.is_async:
            self._thread.submit(call).result()
        else:
            call()
        for message in said:
            if "refused" in message:
                raise refusal(self._rewards[task.function], message["refused"])
            if "log" in message:
                log = message["log"]
                rows = [task.rows[position] for position in log["rows"]]
                graded.logged.append(
                    Logged(task.function, rows, log["extra"], log["metrics"], log["refused"])
                )
            else:
                row = task.rows[message["row"]]
                graded.outcomes[task.function, row] = outcome_of(message)


def inline_outcomes(reward: LoadedReward, batch: GradingBatch) -> list[Outcome]:
    """Grades of a built-in that needs no process (`registry.INLINE`)."""
    try:
        values = numbers_of(
            reward.function(**reward.arguments(batch.given(), batch.columns)),
            len(batch.completions),
        )
    except Exception as error:
        if len(batch.completions) == 1:
            return [Outcome(NAN, "error", f"raised {describe(error)}")]
        return [
            inline_outcomes(reward, batch.rows([row]))[0] for row in range(len(batch.completions))
        ]
    return [
        Outcome(value) if value is not None else Outcome(NAN, "none", "returned None")
        for value in values
    ]


def own_name(function: Callable[..., Any]) -> str:
    """What a function is called in metrics, unless a name is given."""
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__name__") else type(function)
    return str(named.__name__).strip("<>")


def callable_name(label: str) -> str:
    """The name that stands for a function in a configuration."""
    return f"<callable {label}>"


def code_digest(name: str) -> str:
    """Digest of the code behind a name: its text where Python can find it, else what it was
    compiled to. Values that a closure holds are not part of it."""
    function: Any = handed("rewards.function", name, "rewards=[...]")
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = type(function)
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):  # typed into a prompt that keeps nothing
        text = _compiled(getattr(function, "__code__", None))
    return hashlib.sha256(text.encode()).hexdigest()


def _compiled(code: Any) -> str:
    if not isinstance(code, types.CodeType):
        return ""
    constants = [
        _compiled(each) if isinstance(each, types.CodeType) else repr(each)
        for each in code.co_consts
    ]
    return repr((code.co_code.hex(), code.co_names, code.co_varnames, constants))


def split_handed(
    rewards: Sequence[Any],
) -> tuple[list[Any], dict[str, Callable[..., Any]]]:
    """Rewards as a configuration writes them, and the functions among them by their names.

    Args:
      rewards: functions; names of built-in ones or of files; mappings of `RewardConfig`'s fields,
        whose `function` may be a function; `RewardConfig`s.

    Raises:
      ValueError: two functions share a name, or one of them is none.
    """
    written: list[Any] = []
    functions: dict[str, Callable[..., Any]] = {}
    for number, reward in enumerate(rewards):
        entry = reward
        if isinstance(reward, str) or callable(reward):
            entry = {"function": reward}
        if isinstance(entry, Mapping) and callable(entry.get("function")):
            function = entry["function"]
            label = entry.get("name") or own_name(function)
            name = callable_name(str(label))
            if name in functions:
                raise ValueError(
                    f"rewards[{number}]: {label!r} names two functions; give each its own name, "
                    f"for example rewards=[{{'function': f, 'name': '{label}_2'}}]"
                )
            functions[name] = function
            entry = {**entry, "function": name, "name": label}
        elif not isinstance(entry, Mapping | RewardConfig):
            raise ValueError(
                f"rewards[{number}] is a {type(reward).__name__}: give a function, the name of a "
                "built-in one, or {'function': f, 'weight': 0.5}"
            )
        written.append(entry)
    return written, functions
