"""The process that forks sandboxed ones, and their wardens. Standard library, no stranger's code.

Starting an interpreter takes a tenth of a second and more, so one is started per grader, imports
what strangers may need, and then forks: per job a warden, which forks the job's one or two
processes, lets them lock themselves in, and ends them when they have used their time. Jobs are in
memory files that only the locked-in process reads: this process never holds a test or an answer
that a later candidate could find in its memory.

A candidate's own time is its processor time, and the time in which it sleeps. Waiting for a
processor is not its fault.
"""

import fcntl
import gc
import json
import math
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from rlhf_jax.rewards.sandbox import child, jail, python

_CONNECTION = 3
_READY = 4
_JOB = 5
"""Descriptors in a locked-in process; 0 is its input, 1 its output."""
_MORE_THAN_ANY = 256
_TICK = 0.02
_MOST_THREADS = 128


class Order(NamedTuple):
    """One job, as the grader asks for it. Holds nothing of its content."""

    kinds: list[str]
    """Of its processes; the job is over when the last one ends."""
    cpu: float
    """Seconds of own time of all together."""
    wall: float
    """Seconds after which the machine is to blame."""
    memory: int
    file_size: int
    namespaces: bool
    abi: int | None


class _Inmate(NamedTuple):
    """A locked-in process."""

    pid: int
    ready: int
    """The reading end of a pipe on which it says that it is locked in, or why not."""
    base: float
    """Processor time it took to get there."""


def main() -> None:
    """Forks a warden for every order, until the grader has gone.

    The last two arguments: the descriptor of the connection to the grader, and as JSON what may be
    imported and read besides.
    """
    control = socket.socket(fileno=int(sys.argv[-2]))
    wanted = json.loads(sys.argv[-1])
    # The grader decides when it is over, not a key pressed in its terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # wardens are not waited for
    found = python.preload([(name, folder) for name, folder, _ in wanted["packages"]])
    paths = [path for name, _, paths in wanted["packages"] if name in found for path in paths]
    seen = jail.places(paths + wanted["readable"])
    gc.collect()
    gc.freeze()
    control.sendall(json.dumps({"packages": found}).encode())
    job = None
    while job is None:
        message, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 16)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            control.close()
            job = _guard(Order(*json.loads(message)), list(descriptors), seen)
        for descriptor in () if job else descriptors:
            os.close(descriptor)
    # In a locked-in process, and outside of all that could take its exceptions for ours.
    try:
        job()
    finally:
        os._exit(1)


def _guard(order: Order, descriptors: list[int], seen: jail.Places) -> Callable[[], None]:
    """A warden's life. Returns only in processes that it has forked and locked in: their work."""
    jail.die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    report = descriptors[0]
    inmates: list[_Inmate] = []
    result: dict[str, Any]
    try:
        for number, kind in enumerate(order.kinds):
            files = descriptors[1 + 4 * number : 5 + 4 * number]
            inmate = _lock_in(order, kind, files, seen, last=number + 1 == len(order.kinds))
            if not isinstance(inmate, _Inmate):
                return inmate
            inmates.append(inmate)
        for descriptor in descriptors[1:]:
            os.close(descriptor)  # so that each end of a connection ends with its process
        for number, inmate in enumerate(inmates):
            answer = os.read(inmate.ready, 500)
            if not answer.startswith(b"ready "):
                raise OSError(
                    answer.decode("utf-8", "replace") or "the sandboxed process did not start"
                )
            inmates[number] = inmate._replace(base=float(answer.split()[1]))
        result = _watch(order, inmates, report)
    except OSError as error:
        result = {"refused": str(error)}
    for inmate in inmates:
        try:
            os.kill(inmate.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended
    try:
        os.write(report, json.dumps(result).encode())
    except OSError:
        pass  # the grader has gone
    try:
        while True:
            os.wait()
    except ChildProcessError:
        os._exit(0)


def _lock_in(
    order: Order, kind: str, files: list[int], seen: jail.Places, *, last: bool
) -> _Inmate | Callable[[], None]:
    """Forks a process and has it locked in; returns in that process what it has to do.

    Namespaces begin with a child of the process that asks for them. The warden asks for those of
    its last process; for others it forks one more.
    """
    ready, says = os.pipe()
    told, tells = os.pipe()
    between = order.namespaces and not last
    pid = os.fork() if between else -1
    if pid > 0:
        os.close(tells)
        pid = int(os.read(told, 20) or b"0")
    else:
        try:
            if order.namespaces:
                jail.separate()
        except OSError as error:
            os.write(says, str(error).encode())
            if between:
                os._exit(1)
            raise
        pid = os.fork()
        if pid == 0:
            return _inmate(order, kind, files, says, seen)
        if between:
            os.write(tells, str(pid).encode())
            os.closerange(0, _MORE_THAN_ANY)
            os.waitpid(pid, 0)
            os._exit(0)
        os.close(tells)
    os.close(told)
    os.close(says)
    return _Inmate(pid, ready, 0.0)


def _inmate(
    order: Order, kind: str, files: list[int], says: int, seen: jail.Places
) -> Callable[[], None]:
    """Locks this process in."""
    job, stdin, stdout, connection = files
    null = os.open(os.devnull, os.O_RDWR)
    out_of_the_way = [
        fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in (stdin, stdout, null, connection, says, job)
    ]
    for target, descriptor in enumerate(out_of_the_way):
        os.dup2(descriptor, target, inheritable=False)
    os.closerange(_JOB + 1, _MORE_THAN_ANY)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    limits = jail.Limits(math.ceil(order.cpu) + 1, order.memory, order.file_size)
    try:
        jail.enter(limits, seen, namespaces=order.namespaces, abi=order.abi)
        with open(_JOB, "rb") as file:
            content = json.loads(file.read())
    except OSError as error:
        os.write(_READY, str(error).encode())
        os._exit(1)
    os.write(_READY, f"ready {time.process_time()}".encode())
    os.close(_READY)
    if len(order.kinds) == 1:
        os.close(_CONNECTION)
    folder = seen.folder if order.namespaces else None
    return lambda: child.run(
        kind, content, _CONNECTION if len(order.kinds) > 1 else None, folder=folder
    )


def _watch(order: Order, inmates: list[_Inmate], report: int) -> dict[str, Any]:
    """Waits for the last process to end, or to use up its time."""
    last = inmates[-1]
    ended = os.pidfd_open(last.pid)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(report, select.POLLIN)
    start = before = time.monotonic()
    used = slept = 0.0
    sleeping = False
    fault = None
    while fault is None:
        found = {descriptor for descriptor, _ in poll.poll(_TICK * 1000)}
        now = time.monotonic()
        if report in found:
            fault = "abandoned"
        spent = max(used, sum(_processor_time(inmate.pid) - inmate.base for inmate in inmates))
        if ended in found:
            break
        states = [_state(inmate.pid) for inmate in inmates]
        asleep = all(state[0] for state in states)
        if asleep and sleeping and spent - used < 0.1 * (now - before):
            slept += now - before
        used = spent
        before = now
        sleeping = asleep
        if used > order.cpu:
            fault = "processor time"
        elif used + slept > order.cpu:
            fault = "sleep"
        elif max(state[1] for state in states) > _MOST_THREADS:
            fault = "threads"
        elif now - start > order.wall:
            fault = "machine"
    status = None
    if ended in found:
        _, code, usage = os.wait4(last.pid, 0)
        status = os.waitstatus_to_exitcode(code)
        own = usage.ru_utime + usage.ru_stime - last.base
        used = max(used, spent, own)
        if used > order.cpu:
            fault = "processor time"
    return {"fault": fault, "status": status, "seconds": used + slept, "processor": used}


def _processor_time(pid: int) -> float:
    """Seconds that all threads of a process have used; 0 once it has been waited for."""
    try:
        return time.clock_gettime(((~pid) << 3) | 2)  # what clock_getcpuclockid(3) computes
    except OSError:
        return 0.0


def _state(pid: int) -> tuple[bool, int]:
    """Whether all threads of a process sleep (none waits for processor or disk), and how many."""
    sleeping = True
    threads = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/stat", "rb") as file:
                state = file.read().rpartition(b") ")[2][:1]
            threads += 1
            sleeping &= state in b"STtZX"
    except (
        FileNotFoundError,
        ProcessLookupError,
    ):  # it has ended; or there is no /proc here, and nothing is taken for sleep
        return os.path.exists("/proc/self"), threads
    return sleeping, threads
