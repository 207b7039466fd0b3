"""Sandboxed processes as the grader sees them: jobs go in, output and how it ended come back.

`run_program`, `run_programs`, `run_calls` and `run_tests` are the entrances; each makes a job,
hands it to the server (`client`) and reads what the processes left. `isolation` tries once per
process whether the sandbox holds on this machine.
"""

import functools
import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rlhf_jax.rewards.sandbox.child import PASSED, packed
from rlhf_jax.rewards.sandbox.client import START_SECONDS, Server, memory_file, output_file, send

LANDLOCK: int | None = None
"""The newest version of Landlock to use; None: the kernel's own. For tests of older ones."""
_LARGEST_OUTPUT = 2**20
_FILE_SIZE = 2**24
WALL = 9.0
"""Wall time in own times. Waiting for a processor is not the candidate's fault, so this is far
above; and it is below the ten times after which the pool gives up on a grader."""
_PROBE = """
import ctypes, os, socket
victim, other = VICTIM, OTHER
libc = ctypes.CDLL(None)
def truncate(flags):
    os.close(os.open(victim, flags | os.O_TRUNC))
attempts = {
    "open a socket": lambda: socket.socket(),
    "start a process": lambda: os.fork(),
    "start a program": lambda: os.execv("/bin/true", ["true"]),
    "signal another process": lambda: os.kill(os.getppid() or 1, 0),
    "read another process's environment": lambda: open(f"/proc/{os.getppid()}/environ").read(),
    "read a file outside its folder": lambda: open("/etc/passwd").read(),
    "read a file of the user's": lambda: open(other).read(),
    "write outside its folder": lambda: open(f"{os.path.dirname(victim)}/escaped", "w"),
    "write to a file that it may read": lambda: open(victim, "r+"),
    "empty a file that it may read": lambda: truncate(os.O_RDONLY),
    "empty a file by its name": lambda: os.truncate(victim, 0),
    "empty a file of the user's": lambda: os.truncate(other, 0),
    "empty a file of the user's by opening it for nothing": lambda: os.open(other, 3 | os.O_TRUNC),
    "open a file for nothing": lambda: os.open(victim, 3),
    "change a file's times": lambda: os.utime(victim, (0, 0)),
    "change a file's mode": lambda: os.chmod(victim, 0),
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
    """Seconds of its own time: processor time, and time in which it sleeps."""
    memory_mb: int = 512
    """Address space, beyond that of the bare interpreter."""
    wall: float | None = None
    """Seconds after which the machine is to blame; None: `WALL` times `timeout`."""


class Finished(NamedTuple):
    """How a program ended."""

    output: str
    """Standard output."""
    fault: str | None
    """None: ended by itself with status 0. Else "timeout", "output" (too much) or "status N"."""
    seconds: float
    """Own time of the program, without the start."""


class MachineTooSlow(RuntimeError):
    """A process waited for the machine so long that nothing can be said of it."""


class Called(NamedTuple):
    """What a function returned, call by call."""

    results: list[Any]
    """Per call ``{"value": ..}`` or ``{"error": name}``, as `rlhf_jax.rewards.sandbox.child` writes
    them. Fewer than there were calls when the process ended early; nothing of it is to be
    trusted."""
    fault: str | None
    """As in `Finished`."""


class _Process(NamedTuple):
    """One process of a job."""

    kind: str
    job: dict[str, Any]
    stdin: bytes = b""


class _Raw(NamedTuple):
    output: bytes
    fault: str | None
    seconds: float


@functools.cache
def isolation() -> bool:
    """Checks by attempts that the sandbox holds here: a quarter of a second, once a process.

    Returns:
      Whether namespaces are part of it (then programs have a writable folder; without, they can
      write nowhere).

    Raises:
      ValueError: one line; this system lacks a layer, or an attempt to get out succeeded.
    """
    if sys.platform != "linux":
        raise ValueError("the code reward needs Linux: its sandbox uses Landlock and seccomp")
    reasons = []
    with tempfile.TemporaryDirectory() as folder:
        victim = os.path.join(folder, "readable", "file")
        other = os.path.join(folder, "file")
        os.mkdir(os.path.dirname(victim))
        for namespaces in (True, False):
            for path in (victim, other):
                with open(path, "w") as file:
                    file.write("kept")
            reason = _leak(victim, other, namespaces=namespaces)
            if reason is None:
                return namespaces
            reasons.append(reason)
    raise ValueError(
        f"the code reward cannot run here: {'; '.join(reasons)}. It needs a kernel with Landlock "
        "(5.13) and seccomp on x86-64 or aarch64; gVisor and some containers lack them"
    )


def _leak(victim: str, other: str, *, namespaces: bool) -> str | None:
    probe = _PROBE.replace("VICTIM", repr(victim)).replace("OTHER", repr(other))
    try:
        server = Server((), [os.path.dirname(victim)])
        try:
            limits = Limits(timeout=10.0)
            job = _program_job(
                probe, "", limits, _LARGEST_OUTPUT, namespaces=namespaces, server=server
            )
            finished = _program(job, _LARGEST_OUTPUT)
        finally:
            server.close()
    except RuntimeError as error:
        return str(error)
    for path in (victim, other):
        with open(path) as file:
            if file.read() != "kept":
                return f"in the sandbox it is possible to change {path}"
    lines = finished.output.split("\n")
    if finished.fault is None and lines == ["done", ""]:
        return None
    return f"in the sandbox it is possible to {', '.join(lines[:-2]) or finished.fault}"


def run_program(
    code: str, stdin: str, limits: Limits, *, largest: int = _LARGEST_OUTPUT
) -> Finished:
    """Runs a program as `__main__` on some input.

    Args:
      code: the program.
      stdin: its input.
      limits: of this run.
      largest: bytes of output that it may write.

    Raises:
      MachineTooSlow: it waited for the machine.
      RuntimeError: the sandbox could not be set up (nothing was run).
    """
    return next(run_programs(code, [stdin], limits, largest=largest))


def run_programs(
    code: str, stdins: Sequence[str], limits: Limits, *, largest: int = _LARGEST_OUTPUT
) -> Iterator[Finished]:
    """Runs a program on several inputs at once, each in a process of its own.

    Args:
      code: the program.
      stdins: its inputs.
      limits: of each run.
      largest: bytes of output that each may write.

    Yields:
      How each ended, in the order of the inputs. Closing the iterator ends those that still run.

    Raises:
      MachineTooSlow: it waited for the machine.
      RuntimeError: the sandbox could not be set up.
    """
    namespaces = isolation()
    jobs: list[_Job] = []
    try:
        for stdin in stdins:
            job = _program_job(code, stdin, limits, largest, namespaces=namespaces, server=None)
            jobs.append(job)
        for job in jobs:
            yield _program(job, largest)
    finally:
        for job in jobs:
            job.close()


def run_calls(
    code: str, function: str, arguments: Sequence[tuple[list[Any], dict[str, Any]]], limits: Limits
) -> Called:
    """Calls a function of a module, or a method of `Solution`, repeatedly in one process.

    Args:
      code: the candidate's module.
      function: name.
      arguments: per call positional and named ones, plain data.
      limits: of the whole.

    Raises:
      MachineTooSlow: it waited for the machine.
      RuntimeError: the sandbox could not be set up.
    """
    job = {"code": code, "function": function, "arguments": packed(arguments)}
    done = _Job([_Process("calls", job)], limits, namespaces=isolation()).end()
    results = []
    for line in done.output.split(b"\n")[: len(arguments)]:
        try:
            results.append(json.loads(line))
        except (ValueError, RecursionError):
            break  # the candidate writes there, too
    return Called(results, done.fault)


def run_tests(code: str, setup: str, tests: Sequence[str], limits: Limits, entry: str = "") -> int:
    """Runs tests against a module, the tests in one sandboxed process and the module in another.

    See `rlhf_jax.rewards.sandbox.rpc` for what can be tested, and why the module cannot fake a
    pass.

    Args:
      code: the candidate's module.
      setup: code before the tests.
      tests: statements; one passes when it raises nothing.
      limits: of the whole.
      entry: a name that the module has to define, else no test passes; it may be a built-in's.

    Returns:
      How many tests passed within the limits.

    Raises:
      MachineTooSlow: they waited for the machine.
      RuntimeError: the sandbox could not be set up.
    """
    candidate = _Process("candidate", {"code": code})
    judge = _Process("tests", {"setup": setup, "tests": list(tests), "entry": entry})
    done = _Job([candidate, judge], limits, namespaces=isolation()).end()
    return done.output.count(PASSED) if len(done.output) <= len(tests) else 0


def _program(job: "_Job", largest: int) -> Finished:
    done = job.end()
    return Finished(
        done.output[:largest].decode("utf-8", "replace"),
        "output" if len(done.output) > largest else done.fault,
        done.seconds,
    )


def _program_job(
    code: str, stdin: str, limits: Limits, largest: int, *, namespaces: bool, server: Server | None
) -> "_Job":
    process = _Process("program", {"code": code}, stdin.encode("utf-8", "surrogatepass"))
    file_size = max(_FILE_SIZE, largest + 1)
    return _Job([process], limits, namespaces=namespaces, server=server, file_size=file_size)


class _Job:
    """A job that has begun.

    Raises:
      RuntimeError: it could not begin.
    """

    def __init__(
        self,
        processes: Sequence[_Process],
        limits: Limits,
        *,
        namespaces: bool,
        server: Server | None = None,
        file_size: int = _FILE_SIZE,
    ) -> None:
        self._processes = processes
        self._server = server
        self._wall = WALL * limits.timeout if limits.wall is None else limits.wall
        kinds = [process.kind for process in processes]
        memory = limits.memory_mb * 2**20
        order = [kinds, limits.timeout, self._wall, memory, file_size, namespaces, LANDLOCK]
        self._order = json.dumps(order).encode()
        self._report: socket.socket | None = None
        self._output = -1
        try:
            self._begin()
        except RuntimeError:
            if server is not None:
                raise
            self._begin()  # with another server

    def end(self) -> _Raw:
        """Waits for the end. Begins once more when the processes were lost or did not start.

        Raises:
          MachineTooSlow: the machine, and not the job, was the reason that it came to nothing.
          RuntimeError: it could not be run.
        """
        result = self._result()
        if "refused" in result and self._server is None:
            self._begin()
            result = self._result()
        if "refused" in result:
            self.close()
            raise RuntimeError(result["refused"])
        output = os.pread(self._output, os.fstat(self._output).st_size, 0)
        self.close()
        if result["fault"] in ("machine", "abandoned"):
            raise MachineTooSlow(f"the machine was too busy to run it within {self._wall:g} s")
        fault = "timeout" if result["fault"] is not None else None
        if fault is None and result["status"] != 0:
            fault = f"status {result['status']}"
        return _Raw(output, fault, result["seconds"])

    def close(self) -> None:
        """Ends it, if it has not ended; safe to call twice."""
        if self._report is not None:
            self._report.close()  # which its warden sees
            os.close(self._output)
            self._report = None

    def _begin(self) -> None:
        self.close()
        ours, theirs = socket.socketpair()
        output = output_file()
        try:
            with theirs:
                _hand_over(self._processes, self._order, theirs, output, self._server)
        except RuntimeError:
            ours.close()
            os.close(output)
            raise
        self._report = ours
        self._output = output

    def _result(self) -> dict[str, Any]:
        assert self._report is not None
        self._report.settimeout(self._wall + START_SECONDS)
        try:
            report = self._report.recv(1 << 16)
        except OSError:
            report = b""
        if not report:
            return {"refused": "a sandboxed process was lost"}
        return dict(json.loads(report))


def _hand_over(
    processes: Sequence[_Process],
    order: bytes,
    report: socket.socket,
    output: int,
    server: Server | None,
) -> None:
    """Sends a job to the server; only the output of the last process stays open here."""
    files: list[int] = []
    left, right = socket.socketpair()
    try:
        with left, right:
            for process, connection in zip(processes, (left, right), strict=False):
                last = process is processes[-1]
                files += [
                    memory_file(json.dumps(process.job).encode()),
                    memory_file(process.stdin),
                ]
                files += [os.dup(output) if last else output_file(), os.dup(connection.fileno())]
            send(order, [report.fileno(), *files], server)
    finally:
        for descriptor in files:
            os.close(descriptor)
