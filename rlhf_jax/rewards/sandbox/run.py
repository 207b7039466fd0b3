"""Starts sandboxed processes, feeds them, and ends them in time."""

import functools
import json
import math
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple

from rlhf_jax.rewards.sandbox.child import PASSED, READY, REFUSED

_HERE = os.path.dirname(os.path.abspath(__file__))
_FOLDER = _HERE
"""Working folder of the programs. With namespaces they see an empty memory file system in its place, without they can neither
write nor list it; an existing folder serves as well as a new one, and nothing has to be removed afterwards."""
_BOOT = (
    "import sys, types\n"
    "for name, path in zip(('rlhf_jax', 'rlhf_jax.rewards', 'rlhf_jax.rewards.sandbox'), sys.argv[1:]):\n"
    "    sys.modules[name] = types.ModuleType(name); sys.modules[name].__path__ = [path]\n"
    "from rlhf_jax.rewards.sandbox.child import main; main()"
)
"""Imports the child without the packages around it, which need JAX and are not for strangers."""
_LARGEST_OUTPUT = 2**20
_START_SECONDS = 30.0
"""Time for the interpreter and the layers; the limit of the program starts afterwards."""
_PROBE = """
import os, socket
attempts = {
    "open a socket": lambda: socket.socket(),
    "start a process": lambda: os.fork(),
    "read another process's environment": lambda: open(f"/proc/{os.getppid()}/environ").read(),
    "read a file outside its folder": lambda: open("/etc/passwd").read(),
    "write outside its folder": lambda: open("/var/tmp/escaped", "w"),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except OSError:
        continue
    print(name)
print("done")
"""


class Limits(NamedTuple):
    """What one candidate may use."""

    timeout: float = 5.0
    """Seconds of wall time, and of processor time."""
    memory_mb: int = 512
    """Address space."""


class _Process:
    """A sandboxed interpreter with one job."""

    def __init__(self, job: dict[str, object], limits: Limits, *, namespaces: bool, connection: int | None) -> None:
        self._namespaces = namespaces
        packages = [os.path.dirname(os.path.dirname(_HERE)), os.path.dirname(_HERE), _HERE]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _BOOT, *packages],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd=_FOLDER,
            pass_fds=[] if connection is None else [connection],
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self.stdin, self.stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self.stdin, False)
        os.set_blocking(self.stdout, False)
        # Processor time also counts the start; the wall clock is the sharp limit.
        common = {"seconds": math.ceil(limits.timeout) + 2, "memory": limits.memory_mb * 2**20, "folder": _FOLDER}
        data = json.dumps(job | common | {"namespaces": namespaces, "connection": connection}).encode()
        self.job = struct.pack("!Q", len(data)) + data

    @property
    def code(self) -> int | None:
        """Exit status once it has ended, negative for a signal."""
        return self._process.returncode

    def close_input(self) -> None:
        """Ends the program's input."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self, seconds: float) -> None:
        """Waits for the end, at most so long."""
        try:
            self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            pass

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._namespaces and self._process.poll() is None:
            self._process.terminate()  # our own process kills the stranger's and reaps it
            self.wait(2.0)
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:
                pass  # unread input
        self._process.wait()


class Finished(NamedTuple):
    """How a program ended."""

    output: str
    """Standard output."""
    fault: str | None
    """None: ended by itself with status 0. Else "timeout", "output" (too much) or "status N"."""
    seconds: float
    """Wall time of the program, without the start."""


@functools.cache
def isolation() -> bool:
    """Checks by attempts that the sandbox holds here. Takes some 50 ms, once per process.

    Returns:
      Whether namespaces are part of it (then programs have a writable folder; without, they can write nowhere).

    Raises:
      ValueError: one line; this system lacks a layer, or an attempt to get out succeeded.
    """
    if sys.platform != "linux":
        raise ValueError("the code reward needs Linux: its sandbox uses Landlock and seccomp")
    reasons = []
    for namespaces in (True, False):
        try:
            finished = _run(_PROBE, "", Limits(timeout=10.0), namespaces=namespaces)
        except RuntimeError as error:
            reasons.append(str(error))
            continue
        if finished.fault is None and finished.output.split("\n") == ["done", ""]:
            return namespaces
        reasons.append(f"in the sandbox it is possible to {', '.join(finished.output.split(chr(10))[:-2]) or finished.fault}")
    raise ValueError(
        f"the code reward cannot run here: {'; '.join(reasons)}. It needs a kernel with Landlock (5.13) and seccomp on x86-64 or "
        "aarch64; gVisor and some containers lack them"
    )


def run_program(code: str, stdin: str, limits: Limits) -> Finished:
    """Runs a program as `__main__` on some input.

    Raises:
      RuntimeError: the sandbox could not be set up (nothing was run).
    """
    return _run(code, stdin, limits, namespaces=isolation())


def run_tests(code: str, setup: str, tests: Sequence[str], limits: Limits) -> int:
    """Runs tests against a module, the tests in one sandboxed process and the module in another.

    See `rlhf_jax.rewards.sandbox.rpc` for what can be tested, and why the module cannot fake a pass.

    Args:
      code: the candidate's module.
      setup: code before the tests.
      tests: statements; one passes when it raises nothing.
      limits: of the whole.

    Returns:
      How many tests passed within the limits.

    Raises:
      RuntimeError: the sandbox could not be set up.
    """
    namespaces = isolation()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        arguments = {"limits": limits, "namespaces": namespaces}
        candidate_job: dict[str, object] = {"kind": "candidate", "code": code}
        tests_job: dict[str, object] = {"kind": "tests", "setup": setup, "tests": list(tests)}
        with (
            _Process(candidate_job, connection=theirs.fileno(), **arguments) as candidate,  # type: ignore[arg-type]
            _Process(tests_job, connection=ours.fileno(), **arguments) as judge,  # type: ignore[arg-type]
        ):
            ours.close()
            theirs.close()
            _start([candidate, judge])
            verdicts, _ = _communicate(judge, b"", time.monotonic() + limits.timeout)
    return verdicts.count(PASSED) if len(verdicts) <= len(tests) else 0


def _run(code: str, stdin: str, limits: Limits, *, namespaces: bool) -> Finished:
    job: dict[str, object] = {"kind": "program", "code": code}
    with _Process(job, limits, namespaces=namespaces, connection=None) as process:
        _start([process])
        start = time.monotonic()
        deadline = start + limits.timeout
        output, fault = _communicate(process, stdin.encode("utf-8", "replace"), deadline)
        if fault is None:
            process.wait(deadline - time.monotonic())
            fault = None if process.code == 0 else "timeout" if process.code is None else f"status {process.code}"
        seconds = time.monotonic() - start
    return Finished(output.decode("utf-8", "replace"), fault, seconds)


def _start(processes: Sequence[_Process]) -> None:
    """Hands out the jobs and waits until every process has closed its doors."""
    deadline = time.monotonic() + _START_SECONDS
    for process in processes:
        unwritten = process.job
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdin, selectors.EVENT_WRITE)
            while unwritten and selector.select(deadline - time.monotonic()):
                unwritten = unwritten[_write(process.stdin, unwritten) :]
    for process in processes:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            first = os.read(process.stdout, 1) if selector.select(max(0.0, deadline - time.monotonic())) else b""
            if first != READY:
                process.wait(1.0)
                reason = os.read(process.stdout, 500).decode() if first == REFUSED else "the sandbox did not start"
                raise RuntimeError(reason)


def _communicate(process: _Process, stdin: bytes, deadline: float) -> tuple[bytes, str | None]:
    """Feeds input and collects output until the process closes it."""
    output = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdin, selectors.EVENT_WRITE)
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                if key.fd == process.stdin:
                    stdin = stdin[_write(process.stdin, stdin) :] if stdin else b""
                    if not stdin:
                        selector.unregister(process.stdin)
                        process.close_input()
                    continue
                part = os.read(process.stdout, 1 << 16)
                output += part
                if not part:
                    return bytes(output), None
                if len(output) > _LARGEST_OUTPUT:
                    return bytes(output[:_LARGEST_OUTPUT]), "output"
    return bytes(output), "timeout"


def _write(descriptor: int, data: bytes) -> int:
    try:
        return os.write(descriptor, data[: 1 << 16])
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        return len(data)  # nobody reads it any more
