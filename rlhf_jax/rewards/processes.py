"""The main process's view of the processes in `rlhf_jax.rewards.worker`."""

import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

from rlhf_jax.rewards.worker import WorkerSetup, frame

START_SECONDS = 300.0
"""Time for imports of the reward functions' modules."""
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[2]); "
    "from rlhf_jax.rewards.worker import run_fork_server; run_fork_server(int(sys.argv[1]))"
)


class Task(NamedTuple):
    """Rows that one worker grades with one function."""

    function: int
    rows: Sequence[int]
    batched: bool = False
    last: bool = False
    """A completion whose process is lost is not tried again."""


class Worker:
    """Main process's view of one worker."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid = pid
        self.connection = connection
        self.owner: int | None = None
        """The function that has this worker for itself; None: it takes whatever comes."""
        self.ready = False
        self.task: Task | None = None
        self.started = False
        self.open: set[int] = set()
        self.deadline = 0.0
        self.graded = 0
        self._buffer = bytearray()

    def take(self, task: Task, deadline: float) -> None:
        """Notes that the worker has been given a task."""
        self.task = task
        self.started = False
        self.open = set(range(len(task.rows)))
        self.deadline = deadline

    def receive(self) -> tuple[list[dict[str, Any]], bool]:
        """Messages that have arrived, and whether the connection has ended."""
        ended = False
        try:
            while part := self.connection.recv(1 << 16):
                self._buffer += part
            ended = True
        except BlockingIOError:
            pass  # nothing more has arrived
        except OSError:
            ended = True
        messages = []
        while len(self._buffer) >= 8:
            end = 8 + struct.unpack("!Q", self._buffer[:8])[0]
            if len(self._buffer) < end:
                break
            messages.append(json.loads(self._buffer[8:end]))
            del self._buffer[:end]
        return messages, ended


class ForkServer:
    """Main process's view of the process that imports the functions and forks workers."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._control, theirs = socket.socketpair()
        # Graders are single-threaded and stay off the accelerators.
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    _BOOT,
                    str(theirs.fileno()),
                    json.dumps([os.path.abspath(path) for path in sys.path]),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the main process
            )
        finally:
            theirs.close()
        self._finalizer = weakref.finalize(self, _end_fork_server, self._control, self._process)
        self._control.settimeout(START_SECONDS)
        self._control.sendall(frame(pickle.dumps(setup)))
        self._ready = False

    def fork(self) -> Worker:
        """A new worker. Raises OSError when the fork server has ended."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._await_ready()
                socket.send_fds(self._control, [b"F" + bytes(8)], [theirs.fileno()])
            pid = struct.unpack("!Q", self._receive(8))[0]
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        return Worker(pid, ours)

    def kill(self, pid: int) -> int:
        """Kills and reaps a worker and all it started; returns the signal that ended it, or 0."""
        try:
            self._control.sendall(b"K" + struct.pack("!Q", pid))
            return struct.unpack("!i", self._receive(4))[0]
        except OSError:
            return 0  # the fork server has ended, and its workers with it

    def how_it_ended(self) -> str:
        """`by signal 9` or `with exit code 1`; empty while the process runs."""
        code = self._process.poll()
        if code is None:
            return ""
        return f"by signal {-code}" if code < 0 else f"with exit code {code}"

    def close(self) -> None:
        """Ends the fork server and its workers."""
        self._finalizer()

    def _await_ready(self) -> None:
        if not self._ready:
            self._receive(1)
            self._ready = True

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._control.recv(size - len(data))
            if not part:
                raise ConnectionResetError("the process that forks reward processes has ended")
            data += part
        return data


def _end_fork_server(control: socket.socket, process: subprocess.Popen) -> None:
    control.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
