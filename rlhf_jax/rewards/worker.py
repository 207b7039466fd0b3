"""Processes behind `rewards.pool`: a fork server that imports everything, and workers it forks.

The main process cannot fork (JAX has threads) and starting an interpreter costs a second, so one
fresh process, the fork server, imports the reward functions and forks a worker whenever it is asked
to; replacing a killed worker takes milliseconds. The fork server has one thread and touches neither
devices nor data.

Protocol. Main to fork server: 9 bytes, ``F`` (fork; the worker's end of a socket travels along;
answer: 8 bytes, its id) or ``K`` and a process id (kill and reap; answer: the number of the signal
that ended it, 4 bytes). Main to worker: frames (8 bytes of length, then pickle). Worker to main:
frames of JSON, one per graded completion and one for what a call logged.
"""

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
from collections.abc import Sequence
from typing import NamedTuple

from rlhf_jax.rewards.calls import grade_async, grade_batch, grade_each
from rlhf_jax.rewards.code import isolation
from rlhf_jax.rewards.config import PoolConfig, RewardConfig
from rlhf_jax.rewards.loading import LoadedReward, load_reward
from rlhf_jax.rewards.registry import REWARDS, SANDBOXED

_PR_SET_PDEATHSIG = 1


class WorkerSetup(NamedTuple):
    """What the fork server is told first."""

    rewards: tuple[RewardConfig, ...]
    pool: PoolConfig


def frame(payload: bytes) -> bytes:
    """A message with its length in front."""
    return struct.pack("!Q", len(payload)) + payload


def read_frame(connection: socket.socket) -> bytes | None:
    """The next message, or None at the end of the connection. Blocks."""
    head = _read(connection, 8)
    return None if head is None else _read(connection, struct.unpack("!Q", head)[0])


def run_fork_server(control_fd: int) -> None:
    """Body of the fork server: import, then fork and kill as told, until the connection ends."""
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # the main process decides when it is over
    parent = os.getppid()
    control = socket.socket(fileno=control_fd)
    setup_bytes = read_frame(control)
    if setup_bytes is None:
        return
    setup: WorkerSetup = pickle.loads(setup_bytes)
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
            ended_by = _kill(pid) if pid in children else 0
            children.discard(pid)
            control.sendall(struct.pack("!i", ended_by))
    for pid in children:
        _kill(pid)


def _run_worker(
    descriptor: int, setup: WorkerSetup, loaded: Sequence[LoadedReward] | str | None
) -> None:
    try:
        os.setsid()  # a group of its own: killed with all that the grader started
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # ends a built-in whose answer needs too much processor time
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        _limit_memory(setup.pool.memory_gb)
        connection = socket.socket(fileno=descriptor)
        functions = _load_all(setup) if loaded is None else loaded
        if isinstance(functions, str):
            connection.sendall(frame(json.dumps({"failed": functions}).encode()))
            return
        connection.sendall(
            frame(json.dumps({"ready": [(f.required, f.is_async) for f in functions]}).encode())
        )
        while (message := read_frame(connection)) is not None:
            index, batched, batch = pickle.loads(message)
            one_by_one = grade_async if functions[index].is_async else grade_each
            grade = grade_batch if batched else one_by_one
            connection.sendall(frame(b'{"started": true}'))
            grade(
                functions[index],
                batch,
                lambda answer: connection.sendall(frame(json.dumps(answer).encode())),
                setup.pool.timeout,
            )
            connection.sendall(frame(b'{"done": true}'))
    except OSError:
        pass  # the main process has gone
    finally:
        os._exit(0)


def _load_all(setup: WorkerSetup) -> list[LoadedReward] | str:
    try:
        loaded = [load_reward(config) for config in setup.rewards]
    except ValueError as error:
        return str(error)
    if any(config.function == "math" for config in setup.rewards):
        _warm_up_math()
    if any(config.function in SANDBOXED for config in setup.rewards):
        isolation()  # the workers inherit the cached answer
    return loaded


def _warm_up_math() -> None:
    """Imports sympy and builds its tables before workers are forked: paid once, by no answer."""
    for answer, gold in (
        (r"\boxed{\frac{36}{2}x^2 + 1}", "1 + 18x^2"),
        (r"\boxed{[0,1)}", r"\left[0,1\right)"),
    ):
        REWARDS["math"](["p"], [answer], answer=[gold])


def _limit_memory(gigabytes: float) -> None:
    if sys.platform == "linux":
        import resource  # absent on Windows

        resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * 2**30),) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _kill(pid: int) -> int:
    """Ends a worker and all it started; returns the signal that ended it (not ours if dead)."""
    for kill in (os.killpg, os.kill):  # the group exists only after the worker's first line
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended, or has not made its group yet
    status = os.waitpid(pid, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def _read(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(min(size - len(data), 1 << 20))
        if not part:
            return None
        data += part
    return bytes(data)
