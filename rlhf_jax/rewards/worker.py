"""The processes behind `rlhf_jax.rewards.pool`: a nursery that imports everything once, and the workers it forks.

The main process cannot fork (JAX has threads) and starting an interpreter costs a second, so one fresh process, the nursery,
imports the reward functions and forks a worker whenever it is asked to; replacing a killed worker takes milliseconds. The
nursery has one thread and touches neither devices nor data.

Protocol. Main to nursery: 9 bytes, ``F`` (fork; the worker's end of a socket travels along; answer: 8 bytes, its id) or ``K``
and a process id (kill and reap; answer: one byte). Main to worker: frames (8 bytes of length, then pickle). Worker to main:
frames of JSON, one per graded completion.
"""

import asyncio
import ctypes
import gc
import json
import os
import pickle
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_jax.rewards.config import PoolConfig, RewardConfig
from rlhf_jax.rewards.loading import LoadedReward, load_reward
from rlhf_jax.rewards.registry import SANDBOXED
from rlhf_jax.rewards.sandbox import isolation

_PR_SET_PDEATHSIG = 1


class Setup(NamedTuple):
    """What the nursery is told first."""

    rewards: tuple[RewardConfig, ...]
    pool: PoolConfig


class Batch(NamedTuple):
    """Completions to grade. All fields have one entry per completion."""

    prompts: Sequence[Any]
    completions: Sequence[Any]
    completion_ids: Sequence[Sequence[int]]
    columns: Mapping[str, Sequence[Any]]

    def rows(self, rows: Sequence[int]) -> "Batch":
        """The batch of some of the rows."""

        def pick(values: Sequence[Any]) -> list[Any]:
            return [values[i] for i in rows]

        columns = {name: pick(values) for name, values in self.columns.items()}
        return Batch(pick(self.prompts), pick(self.completions), pick(self.completion_ids), columns)

    def given(self) -> dict[str, Sequence[Any]]:
        """The arguments that are not data columns."""
        return {"prompts": self.prompts, "completions": self.completions, "completion_ids": self.completion_ids}


def frame(payload: bytes) -> bytes:
    """A message with its length in front."""
    return struct.pack("!Q", len(payload)) + payload


def read_frame(connection: socket.socket) -> bytes | None:
    """The next message, or None at the end of the connection. Blocks."""
    head = _read(connection, 8)
    return None if head is None else _read(connection, struct.unpack("!Q", head)[0])


def run_nursery(control_fd: int) -> None:
    """Body of the nursery: import, then fork and kill as told, until the main process closes the connection or ends."""
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # the main process decides when it is over
    parent = os.getppid()
    control = socket.socket(fileno=control_fd)
    setup_bytes = read_frame(control)
    if setup_bytes is None:
        return
    setup: Setup = pickle.loads(setup_bytes)
    loaded = _load_all(setup) if setup.pool.preload else None
    gc.collect()
    gc.freeze()
    children: set[int] = set()
    control.sendall(b"R")
    while os.getppid() == parent:
        if not select.select([control], [], [], 1.0)[0]:
            continue
        request, descriptors, _, _ = socket.recv_fds(control, 9, 1)
        if not request:
            break
        request += _read(control, 9 - len(request)) or b""
        if request[:1] == b"F":
            pid = os.fork()
            if pid == 0:
                control.close()
                _run_worker(descriptors[0], setup, loaded)
            os.close(descriptors[0])
            children.add(pid)
            control.sendall(struct.pack("!Q", pid))
        else:
            pid = struct.unpack("!Q", request[1:])[0]
            if pid in children:
                _kill(pid)
                children.discard(pid)
            control.sendall(b"K")
    for pid in children:
        _kill(pid)


def _run_worker(descriptor: int, setup: Setup, loaded: Sequence[LoadedReward] | str | None) -> None:
    try:
        os.setsid()  # a group of its own: killed with all that the grader started
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _limit_memory(setup.pool.memory_gb)
        connection = socket.socket(fileno=descriptor)
        functions = _load_all(setup) if loaded is None else loaded
        if isinstance(functions, str):
            connection.sendall(frame(json.dumps({"failed": functions}).encode()))
            return
        connection.sendall(frame(json.dumps({"ready": [(f.required, f.is_async) for f in functions]}).encode()))
        while (message := read_frame(connection)) is not None:
            index, batched, batch = pickle.loads(message)
            grade = _grade_batch if batched else _grade_async if functions[index].is_async else _grade_each
            connection.sendall(frame(b'{"started": true}'))
            grade(functions[index], batch, lambda answer: connection.sendall(frame(json.dumps(answer).encode())), setup.pool)
            connection.sendall(frame(b'{"done": true}'))
    except OSError:
        pass  # the main process has gone
    finally:
        os._exit(0)


def _load_all(setup: Setup) -> list[LoadedReward] | str:
    try:
        loaded = [load_reward(config) for config in setup.rewards]
    except ValueError as error:
        return str(error)
    if any(config.function == "math" for config in setup.rewards):
        import math_verify  # noqa: F401  heavy; here, before the workers are forked, it is paid for once
    if any(config.function in SANDBOXED for config in setup.rewards):
        isolation()  # the workers inherit the cached answer
    return loaded


def _grade_each(reward: LoadedReward, batch: Batch, send: Callable[[dict[str, Any]], None], pool: PoolConfig) -> None:
    for row in range(len(batch.completions)):
        one = batch.rows([row])
        try:
            answer: dict[str, Any] = {"value": numbers_of(_call(reward, one), 1)[0]}
        except BaseException as error:  # also SystemExit: whatever a grader raises concerns one completion
            answer = {"error": describe(error)}
        send({"row": row} | answer)


def _grade_async(reward: LoadedReward, batch: Batch, send: Callable[[dict[str, Any]], None], pool: PoolConfig) -> None:
    async def grade(row: int) -> None:
        one = batch.rows([row])
        try:
            call = reward.function(**reward.arguments(one.given(), one.columns))
            answer: dict[str, Any] = {"value": numbers_of(await asyncio.wait_for(call, pool.timeout), 1)[0]}
        except TimeoutError:
            answer = {"timeout": True}
        except BaseException as error:  # as above
            answer = {"error": describe(error)}
        send({"row": row} | answer)

    async def grade_all() -> None:
        await asyncio.gather(*(grade(row) for row in range(len(batch.completions))))

    asyncio.run(grade_all())


def _grade_batch(reward: LoadedReward, batch: Batch, send: Callable[[dict[str, Any]], None], pool: PoolConfig) -> None:
    try:
        answers: list[dict[str, Any]] = [{"value": value} for value in numbers_of(_call(reward, batch), len(batch.completions))]
    except BaseException as error:  # as above
        answers = [{"error": describe(error)}] * len(batch.completions)
    for row, answer in enumerate(answers):
        send({"row": row} | answer)


def _call(reward: LoadedReward, batch: Batch) -> Any:
    result = reward.function(**reward.arguments(batch.given(), batch.columns))
    return asyncio.run(result) if asyncio.iscoroutine(result) else result


def numbers_of(result: Any, count: int) -> list[float | None]:
    """What a reward function returned, as `count` numbers or None (also for NaN).

    Raises:
      TypeError, ValueError: another number of values, no number, or an infinite one.
    """
    values = list(result)
    if len(values) != count:
        raise ValueError(f"the reward function returned {len(values)} values for {count} completions")
    numbers = [None if value is None else float(value) for value in values]
    for number in numbers:
        if number in (float("inf"), float("-inf")):
            raise ValueError(f"the reward function returned {number}")
    return [None if number is None or number != number else number for number in numbers]


def describe(error: BaseException) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def _limit_memory(gigabytes: float) -> None:
    if sys.platform == "linux":
        import resource  # absent on Windows

        resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * 2**30),) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # the group exists only after the worker's first line
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    os.waitpid(pid, 0)


def _read(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(min(size - len(data), 1 << 20))
        if not part:
            return None
        data += part
    return bytes(data)
