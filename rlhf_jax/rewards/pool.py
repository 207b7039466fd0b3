"""Grading in processes that may hang or die: each such failure costs one completion, never the run.

A worker gets a chunk of completions and reports one by one. The moment it is silent for longer than the time limit, or gone,
it is replaced; the completion it was working on counts as not graded, and the rest of its chunk goes to another worker.
"""

import collections
import logging
import pickle
import selectors
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rlhf_jax.rewards.config import PoolConfig, RewardConfig
from rlhf_jax.rewards.processes import START_SECONDS, Nursery, Task, Worker
from rlhf_jax.rewards.worker import Batch, Setup, frame

_log = logging.getLogger(__name__)
_ASYNC_GRACE = 2.0
"""Async functions have the time limit inside the worker; this much later the worker itself counts as hung."""
_MAX_STARTS_IN_VAIN = 2
_CHUNK = 64


class Outcome(NamedTuple):
    """The grade of one completion by one function."""

    value: float
    """NaN when there is none."""
    failure: str | None = None
    """Why there is none: "timeout", "error", "crash" or "none" (the function returned None)."""
    message: str = ""


class Function(NamedTuple):
    """What a worker says of a function it has loaded."""

    required: Sequence[str]
    """Data columns that it cannot be called without."""
    is_async: bool


class Pool:
    """Worker processes for a fixed set of reward functions. Not thread-safe: `Rewards` holds a lock.

    Args:
      rewards: the functions, numbered in this order.
      config: number of processes and limits.

    Raises:
      ValueError: a function cannot be loaded.
    """

    def __init__(self, rewards: Sequence[RewardConfig], config: PoolConfig) -> None:
        self._setup = Setup(tuple(rewards), config)
        self._config = config
        self._nursery = Nursery(self._setup)
        self._workers: list[Worker] = []
        self._selector = selectors.DefaultSelector()
        self._starts_in_vain = 0
        self.functions: list[Function] = []
        try:
            while not self.functions:
                self._fill()
                self._wait(collections.deque(), Batch((), (), (), {}), {})
        except BaseException:
            self.close()
            raise

    def run(self, batch: Batch, tasks: Sequence[Task]) -> dict[tuple[int, int], Outcome]:
        """Grades a batch.

        Args:
          batch: the completions.
          tasks: which rows by which function; large ones are divided.

        Returns:
          (function, row) -> outcome, for every row of every task.
        """
        queue = collections.deque(part for task in tasks for part in self._divided(task))
        total = sum(len(task.rows) for task in queue)
        outcomes: dict[tuple[int, int], Outcome] = {}
        try:
            while len(outcomes) < total:
                self._fill()
                self._hand_out(queue, batch)
                self._wait(queue, batch, outcomes)
        except BaseException:
            for worker in [worker for worker in self._workers if worker.task is not None]:
                self._remove(worker)
            raise
        return outcomes

    def close(self) -> None:
        """Ends all processes; safe to call twice."""
        for worker in self._workers:
            worker.connection.close()
        self._workers.clear()
        self._selector.close()
        self._nursery.close()

    def _divided(self, task: Task) -> Iterator[Task]:
        if task.batched:
            yield task
            return
        size = max(1, min(_CHUNK, -(-len(task.rows) // (4 * self._config.workers))))
        for start in range(0, len(task.rows), size):
            yield task._replace(rows=task.rows[start : start + size])

    def _fill(self) -> None:
        while len(self._workers) < self._config.workers:
            if self._starts_in_vain >= _MAX_STARTS_IN_VAIN + self._config.workers:
                raise RuntimeError(
                    f"{self._starts_in_vain} reward processes ended before they graded anything: see their messages on stderr"
                )
            self._starts_in_vain += 1
            try:
                worker = self._nursery.fork()
            except OSError:
                _log.warning("the process that forks reward processes has ended; starting another")
                self._nursery.close()
                self._nursery = Nursery(self._setup)
                continue
            worker.deadline = time.monotonic() + START_SECONDS
            self._workers.append(worker)
            self._selector.register(worker.connection, selectors.EVENT_READ, worker)

    def _hand_out(self, queue: collections.deque[Task], batch: Batch) -> None:
        for worker in list(self._workers):
            if not queue:
                return
            if not worker.ready or worker.task is not None:
                continue
            task = queue.popleft()
            message = frame(pickle.dumps((task.function, task.batched, batch.rows(task.rows)), protocol=pickle.HIGHEST_PROTOCOL))
            try:
                worker.connection.settimeout(self._config.timeout)
                worker.connection.sendall(message)
                worker.connection.setblocking(False)
            except OSError:  # died, or stopped reading, while idle: nobody's fault
                queue.appendleft(task)
                self._remove(worker)
                continue
            worker.take(task, time.monotonic() + self._patience(task))

    def _wait(self, queue: collections.deque[Task], batch: Batch, outcomes: dict[tuple[int, int], Outcome]) -> None:
        busy = [worker for worker in self._workers if worker.task is not None or not worker.ready]
        first = min((worker.deadline for worker in busy), default=time.monotonic())
        for key, _ in self._selector.select(max(0.0, first - time.monotonic())):
            worker = key.data
            messages, ended = worker.receive()
            for message in messages:
                self._handle(worker, message, outcomes)
            if ended:
                self._failed(worker, "crash", queue, outcomes)
        now = time.monotonic()
        for worker in [worker for worker in self._workers if worker in busy and worker.deadline < now]:
            self._failed(worker, "timeout", queue, outcomes)

    def _handle(self, worker: "Worker", message: dict[str, Any], outcomes: dict[tuple[int, int], Outcome]) -> None:
        if worker.task is not None:
            worker.deadline = time.monotonic() + self._patience(worker.task)
        if "failed" in message:
            raise ValueError(message["failed"])
        if "ready" in message:
            worker.ready = True
            self.functions = [Function(*function) for function in message["ready"]]
        elif "started" in message:
            worker.started = True
        elif "row" in message and worker.task is not None:
            self._starts_in_vain = 0
            position = message["row"]
            worker.open.discard(position)
            outcomes[worker.task.function, worker.task.rows[position]] = _outcome(message, self._config.timeout)
        elif "done" in message and worker.task is not None:
            worker.graded += len(worker.task.rows)
            worker.task = None
            if worker.graded >= self._config.max_tasks:
                self._remove(worker)

    def _failed(
        self, worker: "Worker", kind: str, queue: collections.deque[Task], outcomes: dict[tuple[int, int], Outcome]
    ) -> None:
        task, left = worker.task, sorted(worker.open)
        if worker not in self._workers:
            return
        self._remove(worker)
        if task is None or not left:
            return
        if not worker.started:
            queue.appendleft(task)
            return
        self._starts_in_vain = 0
        if self.functions[task.function].is_async and not task.batched and len(left) > 1:
            # Any of the calls that ran at once may be the guilty one: each gets a process of its own.
            queue.extendleft(task._replace(rows=[task.rows[position]]) for position in left)
            return
        limit = f"took longer than {self._config.timeout:g} s"
        outcome = Outcome(float("nan"), kind, limit if kind == "timeout" else "ended the process it ran in")
        guilty = left if task.batched else left[:1]
        for position in guilty:
            outcomes[task.function, task.rows[position]] = outcome
        if rest := [task.rows[position] for position in left[len(guilty) :]]:
            queue.appendleft(task._replace(rows=rest))

    def _patience(self, task: Task) -> float:
        return self._config.timeout + (_ASYNC_GRACE if self.functions[task.function].is_async else 0.0)

    def _remove(self, worker: "Worker") -> None:
        self._selector.unregister(worker.connection)
        worker.connection.close()
        self._workers.remove(worker)
        self._nursery.kill(worker.pid)


def _outcome(message: dict[str, Any], timeout: float) -> Outcome:
    if "error" in message:
        return Outcome(float("nan"), "error", message["error"])
    if "timeout" in message:
        return Outcome(float("nan"), "timeout", f"took longer than {timeout:g} s")
    if message["value"] is None:
        return Outcome(float("nan"), "none", "returned None")
    return Outcome(message["value"])
