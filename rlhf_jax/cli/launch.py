"""`rlhf-jax launch`: a run of several processes on this machine, started, watched and ended as one.

The first process writes to this terminal as it would alone; lines of the others are shown with
their numbers in front. A signal goes to all of them once; the first that fails is named, and the
others end with it.
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import IO, NamedTuple

from rlhf_jax.cli.output import complain
from rlhf_jax.config import ConfigError
from rlhf_jax.console import printable
from rlhf_jax.sharding.channel import LOST
from rlhf_jax.sharding.cluster import VARIABLES

END_SECONDS = 60.0
"""Time for the others to end by themselves once one has failed."""
KILL_SECONDS = 10.0
"""Then time to end after SIGTERM."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LASTING = (0, 2, 3, 4, 5, 130)
"""Exit codes that a restart does not change: done, mistakes, training that failed, interrupted."""
_LOOK_SECONDS = 0.1


class Ended(NamedTuple):
    """The first process that ended otherwise than well, or the last of those that all did."""

    number: int
    code: int
    """As `subprocess` has it: negative for a signal."""

    @property
    def exit_code(self) -> int:
        """As a shell has it."""
        return self.code if self.code >= 0 else 128 - self.code

    @property
    def how(self) -> str:
        """In words."""
        if self.code >= 0:
            return f"ended with exit code {self.code}"
        return f"was ended by {signal.Signals(-self.code).name}"


def launch(options: argparse.Namespace) -> int:
    """`rlhf-jax launch --processes N [...] -- train CONFIG [section.key=value ...]`.

    Returns:
        The exit code of the first process that failed; 0 when none did.
    """
    command = options.arguments
    if command[:1] == ["--"]:
        command = command[1:]
    if command[:1] != ["train"]:
        raise ConfigError("launch starts training: rlhf-jax launch --processes N -- train CONFIG")
    for name in ("processes", "devices_per_process"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value} must be at least 1")
    left = options.restarts
    while True:
        ended, was_asked = run_once(command, options.processes, options.devices_per_process)
        if ended.code == 0 or was_asked or ended.exit_code in LASTING:
            break
        complain(f"process {ended.number} of {options.processes} {ended.how}")
        if left == 0:
            break
        left -= 1
        print(f"starting again from the newest checkpoint ({left} left)", file=sys.stderr)
    return ended.exit_code


def run_once(command: Sequence[str], count: int, devices: int | None) -> tuple[Ended, bool]:
    """Starts all processes and waits for their end.

    Args:
        command: of `rlhf-jax`.
        count: processes.
        devices: of each; None: what it finds.

    Returns:
        (how it ended; whether a signal asked for it).
    """
    port = free_port()
    processes: list[subprocess.Popen[str]] = []
    with forwarding(processes) as signals:
        for number in range(count):
            processes.append(start(command, environment_of(number, count, port, devices), number))
        readers = [reader for process in processes[1:] for reader in show(process, processes)]
        ended = wait(processes)
        for reader in readers:
            reader.join(timeout=KILL_SECONDS)
        return ended, bool(signals)


def environment_of(
    number: int,
    count: int,
    port: int,
    devices: int | None,
    given: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """What tells a process which one it is, and which devices are its own.

    Args:
        number: of the process.
        count: processes.
        port: of process 0.
        devices: of each process: the next so many of CUDA_VISIBLE_DEVICES (or of all), and as many
          virtual ones of a CPU; None: all that it finds.
        given: the environment of this process.

    Raises:
        ConfigError: fewer GPUs are visible than all processes together are to have.
    """
    place = {
        VARIABLES["coordinator"]: f"127.0.0.1:{port}",
        VARIABLES["num_processes"]: str(count),
        VARIABLES["process_id"]: str(number),
    }
    if devices is None:
        return {**given, **place}
    every = [str(i) for i in range(count * devices)]
    # Empty: there is a GPU, and none is to be used.
    if visible := given.get("CUDA_VISIBLE_DEVICES"):
        every = visible.split(",")
        if len(every) < count * devices:
            raise ConfigError(
                f"--processes {count} --devices-per-process {devices} need {count * devices} GPUs, "
                f"and CUDA_VISIBLE_DEVICES={visible} names {len(every)}"
            )
    elif visible == "":
        every = []
    own = every[number * devices : (number + 1) * devices]
    place["CUDA_VISIBLE_DEVICES"] = ",".join(own)
    place["JAX_NUM_CPU_DEVICES"] = str(devices)
    return {**given, **place}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    command: Sequence[str], environment: Mapping[str, str], number: int
) -> subprocess.Popen[str]:
    """One process. All but the first are read; none hears the terminal's signals by itself."""
    read = subprocess.PIPE if number else None
    return subprocess.Popen(
        [sys.executable, "-m", "rlhf_jax", *command],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=read,
        stderr=read,
        text=True,
        errors="replace",
        process_group=0,
    )


def show(
    process: subprocess.Popen[str], processes: Sequence[subprocess.Popen[str]]
) -> Iterator[threading.Thread]:
    """Shows lines of a process with its number in front."""
    number = processes.index(process)

    def copy(lines: IO[str]) -> None:
        with lines:
            for line in lines:
                print(f"[{number}] {printable(line.rstrip())}", file=sys.stderr)

    for stream in (process.stdout, process.stderr):
        if stream is not None:
            reader = threading.Thread(target=copy, args=(stream,), daemon=True)
            reader.start()
            yield reader


def wait(processes: Sequence[subprocess.Popen[str]]) -> Ended:
    """Waits for the end of all, and makes it one: when one has failed the others are given time to
    say so and end, then they are ended."""
    first: Ended | None = None
    until = float("inf")
    while True:
        codes = [process.poll() for process in processes]
        failed = [Ended(number, code) for number, code in enumerate(codes) if code]
        if failed and first is None:
            # Of those that ended within one look, the one that did not end because of another.
            first = min(failed, key=lambda ended: ended.code == LOST)
            until = time.monotonic() + END_SECONDS
        if None not in codes:
            return first or Ended(0, 0)
        if time.monotonic() > until:
            end(processes)
        time.sleep(_LOOK_SECONDS)


def end(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Ends those that are left."""
    left = [process for process in processes if process.poll() is None]
    for process in left:
        process.terminate()
    until = time.monotonic() + KILL_SECONDS
    for process in left:
        try:
            process.wait(timeout=max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def forwarding(processes: Sequence[subprocess.Popen[str]]) -> Iterator[list[int]]:
    """Signals to this process go to all of the others; those that came are listed."""
    came: list[int] = []

    def forward(signum: int, frame: FrameType | None) -> None:
        came.append(signum)
        for process in processes:
            if process.poll() is None:
                process.send_signal(signum)

    before = {signum: signal.signal(signum, forward) for signum in FORWARDED}
    try:
        yield came
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
