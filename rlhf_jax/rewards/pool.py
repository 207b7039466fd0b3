"""Grading in processes that may hang or die: each such failure costs one completion, never the run.

A worker gets a chunk of completions and reports one by one. The moment it is silent for longer than
the time limit, or gone, it is replaced; the completion it was working on is tried once more where
the machine may be to blame, else it counts as not graded (or, when it used up a built-in's
processor time, as wrong), and the rest of its chunk goes to another worker.

A function that is called with whole batches has a worker of its own: what it remembers is in one
process, and no other grader's answers can end it.
"""

import collections
import logging
import pickle
import selectors
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rlhf_jax.rewards.calls import GradingBatch
from rlhf_jax.rewards.config import PoolConfig, RewardConfig
from rlhf_jax.rewards.errors import RewardError, RewardProcessError
from rlhf_jax.rewards.limits import cpu_seconds, is_builtin, wall_seconds, whole_batch
from rlhf_jax.rewards.processes import START_SECONDS, ForkServer, Task, Worker
from rlhf_jax.rewards.worker import WorkerSetup, frame

_log = logging.getLogger(__name__)
_ASYNC_GRACE = 2.0
"""Async functions have the time limit inside the worker; this much later the worker itself counts
as hung."""
_MAX_STARTS_IN_VAIN = 2
_CHUNK = 64
_MAX_TASKS = 5000
NAN = float("nan")


class Outcome(NamedTuple):
    """The grade of one completion by one function."""

    value: float
    """NaN when there is none."""
    failure: str | None = None
    """Why there is none: "timeout", "error", "crash" or "none" (the function returned None); or
    "slow": it is 0 for that."""
    message: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether the grader failed: neither a grade nor None."""
        return self.failure not in (None, "none", "slow")


class Logged(NamedTuple):
    """What a call logged by `log_extra` and `log_metric`."""

    function: int
    rows: Sequence[int]
    extra: dict[str, list[Any]]
    """One value per row."""
    metrics: dict[str, list[float]]
    refused: list[str]
    """What it logged and cannot be kept, and why."""


class Graded(NamedTuple):
    """What `Pool.run` brings back."""

    outcomes: dict[tuple[int, int], Outcome]
    """(function, row) -> its grade."""
    logged: list[Logged]


class Function(NamedTuple):
    """What a worker says of a function it has loaded."""

    required: Sequence[str]
    """Data columns that it cannot be called without."""
    is_async: bool


def outcome_of(message: dict[str, Any]) -> Outcome:
    """What a call found of one completion (`calls`)."""
    for kind in ("error", "crash"):
        if kind in message:
            return Outcome(NAN, kind, message[kind])
    if message["value"] is None:
        return Outcome(NAN, "none", "returned None")
    return Outcome(message["value"])


def refusal(config: RewardConfig, said: str) -> RewardError:
    """The end of a run whose function returns something else than grades."""
    return RewardError(
        f"reward {config.label!r} ({config.function}) {said}: return a list with one number or "
        "None per completion, in their order; a function that grades one completion at a time "
        "needs batched: false in rewards"
    )


class _Work(NamedTuple):
    """What is to be done of a batch, and what is done."""

    batch: GradingBatch
    queues: dict[int | None, collections.deque[Task]]
    """Per owner of workers (`Worker.owner`)."""
    graded: Graded


class Pool:
    """Worker processes for fixed reward functions. Not thread-safe: `Rewards` holds a lock.

    Args:
      rewards: the functions, numbered in this order.
      config: number of processes and limits.

    Raises:
      ValueError: a function cannot be loaded.
    """

    def __init__(self, rewards: Sequence[RewardConfig], config: PoolConfig) -> None:
        self._setup = WorkerSetup(tuple(rewards), config)
        self._config = config
        self._rewards = tuple(rewards)
        owners: list[int | None] = [i for i, reward in enumerate(rewards) if whole_batch(reward)]
        self._owners = owners + [None] * (config.workers if len(owners) < len(rewards) else 0)
        self._fork_server = ForkServer(self._setup)
        self._workers: list[Worker] = []
        self._selector = selectors.DefaultSelector()
        self._starts_in_vain = 0
        self._last_end = ""
        self.functions: list[Function] = []
        try:
            while not self.functions:
                self._fill()
                self._wait(_Work(GradingBatch((), (), (), {}), {}, Graded({}, [])))
        except BaseException:
            self.close()
            raise

    def run(self, batch: GradingBatch, tasks: Sequence[Task]) -> Graded:
        """Grades a batch.

        Args:
          batch: the completions.
          tasks: which rows by which function; large ones are divided.

        Returns:
          An outcome for every row of every task, and what the functions logged.
        """
        work = _Work(batch, {owner: collections.deque() for owner in self._owners}, Graded({}, []))
        for task in tasks:
            self._queue_of(task, work).extend(self._divided(task))
        total = sum(len(task.rows) for task in tasks)
        try:
            while len(work.graded.outcomes) < total:
                self._fill()
                self._hand_out(work)
                self._wait(work)
        except BaseException:
            for worker in [worker for worker in self._workers if worker.task is not None]:
                self._remove(worker)
            raise
        return work.graded

    def close(self) -> None:
        """Ends all processes; safe to call twice."""
        for worker in self._workers:
            worker.connection.close()
        self._workers.clear()
        self._selector.close()
        self._fork_server.close()

    def _queue_of(self, task: Task, work: _Work) -> collections.deque[Task]:
        return work.queues[task.function if task.function in self._owners else None]

    def _divided(self, task: Task) -> Iterator[Task]:
        if task.batched:
            yield task
            return
        workers = 1 if task.function in self._owners else self._config.workers
        size = max(1, min(_CHUNK, -(-len(task.rows) // (4 * workers))))
        for start in range(0, len(task.rows), size):
            yield task._replace(rows=task.rows[start : start + size])

    def _fill(self) -> None:
        missing = collections.Counter(self._owners)
        missing.subtract(worker.owner for worker in self._workers)
        waiting = list(missing.elements())
        while waiting:
            if self._starts_in_vain >= _MAX_STARTS_IN_VAIN + len(self._owners):
                raise RewardProcessError(self._why_in_vain())
            self._starts_in_vain += 1
            try:
                worker = self._fork_server.fork()
            except OSError:
                _log.warning("the process that forks reward processes has ended; starting another")
                self._fork_server.close()
                self._last_end = self._fork_server.how_it_ended()
                self._fork_server = ForkServer(self._setup)
                continue
            worker.owner = waiting.pop()
            worker.deadline = time.monotonic() + START_SECONDS
            self._workers.append(worker)
            self._selector.register(worker.connection, selectors.EVENT_READ, worker)

    def _hand_out(self, work: _Work) -> None:
        for worker in list(self._workers):
            queue = work.queues[worker.owner]
            if not queue or not worker.ready or worker.task is not None:
                continue
            task = queue.popleft()
            rows = work.batch.rows(task.rows)
            message = frame(
                pickle.dumps((task.function, task.batched, rows), protocol=pickle.HIGHEST_PROTOCOL)
            )
            try:
                worker.connection.settimeout(self._patience(task))
                worker.connection.sendall(message)
                worker.connection.setblocking(False)
            except OSError:  # died, or stopped reading, while idle: nobody's fault
                queue.appendleft(task)
                self._remove(worker)
                continue
            worker.take(task, time.monotonic() + self._patience(task))

    def _wait(self, work: _Work) -> None:
        busy = [worker for worker in self._workers if worker.task is not None or not worker.ready]
        first = min((worker.deadline for worker in busy), default=time.monotonic())
        for key, _ in self._selector.select(max(0.0, first - time.monotonic())):
            worker = key.data
            messages, ended = worker.receive()
            for message in messages:
                self._handle(worker, message, work.graded)
            if ended:
                self._failed(worker, "crash", work)
        now = time.monotonic()
        for worker in [
            worker for worker in self._workers if worker in busy and worker.deadline < now
        ]:
            self._failed(worker, "timeout", work)

    def _handle(self, worker: Worker, message: dict[str, Any], graded: Graded) -> None:
        task = worker.task
        if task is not None:
            worker.deadline = time.monotonic() + self._patience(task)
        if "failed" in message:
            raise ValueError(message["failed"])
        if "refused" in message and task is not None:
            raise refusal(self._rewards[task.function], message["refused"])
        if "ready" in message:
            worker.ready = True
            self.functions = [Function(*function) for function in message["ready"]]
        elif "started" in message:
            worker.started = True
        elif "log" in message and task is not None:
            log = message["log"]
            rows = [task.rows[position] for position in log["rows"]]
            graded.logged.append(
                Logged(task.function, rows, log["extra"], log["metrics"], log["refused"])
            )
        elif "row" in message and task is not None:
            self._starts_in_vain = 0
            position = message["row"]
            worker.open.discard(position)
            graded.outcomes[task.function, task.rows[position]] = self._outcome(task, message)
        elif "done" in message and task is not None:
            worker.graded += len(task.rows)
            worker.task = None
            most = self._config.max_tasks or (_MAX_TASKS if worker.owner is None else None)
            if most is not None and worker.graded >= most:
                self._remove(worker)

    def _failed(self, worker: Worker, kind: str, work: _Work) -> None:
        """A worker is gone ("crash") or silent ("timeout"): who is to blame, and the rest."""
        task = worker.task
        left = sorted(worker.open)
        if worker not in self._workers:
            return
        ended_by = self._remove(worker)
        if not worker.ready and ended_by:
            self._last_end = f"by signal {ended_by}"
        if task is None or not left:
            return
        queue = self._queue_of(task, work)
        if not worker.started:
            queue.appendleft(task)
            return
        self._starts_in_vain = 0
        if self.functions[task.function].is_async and not task.batched and len(left) > 1:
            # Any of the calls that ran at once may be the guilty one: each gets a process of its
            # own.
            queue.extendleft(
                task._replace(rows=[task.rows[position]], last=True) for position in left
            )
            return
        guilty = left if task.batched else left[:1]
        if rest := [task.rows[position] for position in left[len(guilty) :]]:
            queue.appendleft(task._replace(rows=rest))
        if kind == "crash" and ended_by == signal.SIGPROF:
            limit = cpu_seconds(self._rewards[task.function])
            message: dict[str, Any] = {"slow": f"needs more than {limit:g} s of processor time"}
        elif self._may_be_the_machine(task, kind):
            queue.append(
                task._replace(rows=[task.rows[position] for position in guilty], last=True)
            )
            return
        else:
            message = {kind: "ended the process it ran in"}
        for position in guilty:
            work.graded.outcomes[task.function, task.rows[position]] = self._outcome(task, message)

    def _may_be_the_machine(self, task: Task, kind: str) -> bool:
        """Whether to try once more: a process was lost, or a built-in stood still."""
        # A batch that failed is graded again one by one anyway (`Rewards`).
        retried = not task.last and not task.batched
        return retried and (kind == "crash" or is_builtin(self._rewards[task.function]))

    def _patience(self, task: Task) -> float:
        grace = _ASYNC_GRACE if self.functions[task.function].is_async else 0.0
        return grace + wall_seconds(
            self._rewards[task.function], self._config, batched=task.batched
        )

    def _remove(self, worker: Worker) -> int:
        """Ends a worker; returns the signal that ended it."""
        self._selector.unregister(worker.connection)
        worker.connection.close()
        self._workers.remove(worker)
        return self._fork_server.kill(worker.pid)

    def _why_in_vain(self) -> str:
        own = [reward.function for reward in self._rewards if not is_builtin(reward)]
        names = ", ".join(own or [reward.function for reward in self._rewards])
        ended = f"; the last ended {self._last_end}" if self._last_end else ""
        return (
            f"{self._starts_in_vain} reward processes ended before they graded anything (rewards: "
            f"{names}{ended}): their own messages stand above; look for what ends the process when "
            f"these modules are imported, whether reward_pool.memory_gb={self._config.memory_gb:g} "
            "and the machine's memory suffice, and where modules start threads try "
            "reward_pool.preload=false"
        )

    def _outcome(self, task: Task, message: dict[str, Any]) -> Outcome:
        config = self._rewards[task.function]
        if "slow" in message:
            return Outcome(0.0, "slow", message["slow"])
        if "timeout" in message:
            limit = wall_seconds(config, self._config, batched=task.batched)
            if config.on_timeout == "wrong" and not task.batched:
                return Outcome(0.0, "slow", f"took longer than {limit:g} s")
            return Outcome(NAN, "timeout", f"took longer than {limit:g} s")
        return outcome_of(message)
