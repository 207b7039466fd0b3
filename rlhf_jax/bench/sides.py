"""The sides of a comparison: processes that take turns, a window of work each, as the driver says.

The first half belongs to the driver, the second to the process of a side. Standard library only: a
PyTorch side imports this in an interpreter that need not have JAX (`start_side.py` keeps the
package itself from being imported).
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Literal, NoReturn

OURS = "rlhf_jax"
"""Names of our own sides begin so; all others run in the interpreter with PyTorch."""
RETAINED = ", retained"
"""Names of PyTorch sides under our malloc settings end so."""
_RETAIN = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
_MARK = "@@"
_PLATFORMS = {"cpu": "cpu", "gpu": "cuda,cpu"}
"""--device -> `JAX_PLATFORMS` of every side's process, which also tells the PyTorch sides."""


def add_arguments(parser: argparse.ArgumentParser, names: tuple[str, ...], *, windows: int) -> None:
    """The options of every comparison: --python, --sides, --windows, --threads.

    Args:
      parser: they are added to it.
      names: of all sides.
      windows: default of --windows.
    """
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter that has torch, transformers and trl"
    )
    parser.add_argument("--sides", nargs="+", choices=names, default=list(names))
    parser.add_argument("--windows", type=int, default=windows, help="timed windows per side")
    parser.add_argument("--threads", type=int, default=2)
    add_device(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device, for `start_side` and `run_alone`."""
    parser.add_argument(
        "--device",
        choices=tuple(_PLATFORMS),
        default="cpu",
        help="gpu: weights in float32 and products in bfloat16 on every side, as TRL's default is",
    )


def start_side(
    name: str,
    module: str,
    folder: pathlib.Path,
    *arguments: object,
    python: str,
    threads: int,
    device: str = "cpu",
) -> subprocess.Popen[str]:
    """Starts one side's process; it waits for its first line.

    Args:
      name: of the side, its first argument. Decides the interpreter (`OURS`) and the malloc
        settings (`RETAINED`).
      module: of this package, to be run in the process.
      folder: the side's second argument; its log is written here.
      arguments: further ones.
      python: interpreter of the PyTorch sides.
      threads: that the process may use; it is pinned to as many cores.
      device: "cpu" or "gpu".

    Returns:
      The process.
    """
    ours = name.startswith(OURS)
    command = [*command_of(module, python=None if ours else python), name, str(folder)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    settings = {"JAX_PLATFORMS": _PLATFORMS[device]}
    if name.endswith(RETAINED):
        settings |= _RETAIN
    with (folder / f"{name}.log").open("w") as log:
        return _start(
            [*command, *map(str, arguments)], threads, settings=settings, stderr=log, **pipes
        )


def command_of(module: str, *, python: str | None) -> list[str]:
    """How a module of this package is run.

    Args:
      module: its name.
      python: an interpreter that need not have JAX; None: this one.
    """
    if python is None:
        return [sys.executable, "-m", module]
    return [python, str(pathlib.Path(__file__).with_name("start_side.py")), module]


def run_alone(
    name: str, command: list[str], *, threads: int, log: pathlib.Path, device: str = "cpu"
) -> int:
    """Runs a whole process to its end, and nothing beside it.

    Args:
      name: of the side, for the message.
      command: what is run.
      threads: that it may use; it is pinned to as many cores.
      log: everything that it prints.
      device: "cpu" or "gpu".

    Returns:
      Its largest resident set, bytes. The system counts what this process held when it started the
      other: a side never seems smaller than its driver, a few hundred MB.

    Raises:
      SystemExit: it failed; with the end of its log.
    """
    with log.open("w") as out:
        settings = {"JAX_PLATFORMS": _PLATFORMS[device]}
        pipes: dict[str, Any] = {"stdout": out, "stderr": subprocess.STDOUT}
        process = _start(command, threads, settings=settings, **pipes)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        _report_death(name, log)
    return usage.ru_maxrss * 1024


def _start(
    command: list[str],
    threads: int,
    *,
    settings: Mapping[str, str],
    **pipes: Any,
) -> subprocess.Popen[str]:
    """Starts a process on as many cores as it may have threads."""
    own = {"OMP_NUM_THREADS": str(threads)}
    # The sides share a GPU: none may take most of its memory at once, and peaks must be its own.
    own["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    process = subprocess.Popen(command, env={**os.environ, **own, **settings}, **pipes)
    os.sched_setaffinity(process.pid, sorted(os.sched_getaffinity(0))[:threads])
    return process


def ask(name: str, process: subprocess.Popen[str], folder: pathlib.Path) -> dict[str, Any]:
    """Lets one window run and waits for its result.

    Args:
      name: of the side.
      process: as `start_side` returned it.
      folder: of the logs.

    Raises:
      SystemExit: the process died; the end of its log is in the message.
    """
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write("go\n")
        process.stdin.flush()
    except BrokenPipeError:
        _report_death(name, folder / f"{name}.log")
    for line in process.stdout:
        if line.startswith(_MARK):
            return json.loads(line[len(_MARK) :])
    _report_death(name, folder / f"{name}.log")


def _report_death(name: str, log: pathlib.Path) -> NoReturn:
    end = log.read_text()[-2000:]
    raise SystemExit(
        f"the side {name!r} failed (the PyTorch sides need the extra `bench`, or --python):\n{end}"
    )


def take_turns(
    processes: Mapping[str, subprocess.Popen[str]], folder: pathlib.Path, *, rounds: int
) -> dict[str, list[Any]]:
    """Asks every side once per round, in turn, so changes of load meet all; ends the processes.

    Args:
      processes: name -> process.
      folder: of the logs.
      rounds: the first one waits for all sides to load and compile.

    Returns:
      name -> one answer per round.
    """
    answers: dict[str, list[Any]] = {name: [] for name in processes}
    try:
        for _ in range(rounds):
            for name, process in processes.items():
                answers[name].append(ask(name, process, folder))
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
    return answers


def on_gpu() -> bool:
    """In a side: whether it is to compute on the GPU."""
    return os.environ.get("JAX_PLATFORMS") == _PLATFORMS["gpu"]


def compute_dtype() -> Literal["float32", "bfloat16"]:
    """In a side: dtype of products; weights are float32."""
    return "bfloat16" if on_gpu() else "float32"


def peak_bytes() -> int:
    """In a side: its largest resident set so far, on a GPU the most of the GPU's memory."""
    if on_gpu():
        return _peak_of_gpu()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _peak_of_gpu() -> int:
    if "jax" in sys.modules:
        stats = sys.modules["jax"].local_devices()[0].memory_stats()
        return stats["peak_bytes_in_use"]
    return sys.modules["torch"].cuda.max_memory_allocated()


def wait() -> None:
    """In a side: waits for the driver's line; ends the process when the driver is gone."""
    if not sys.stdin.readline():
        raise SystemExit("the driver has ended")


def answer(result: Mapping[str, Any]) -> None:
    """In a side: one window's result, to the driver."""
    sys.stdout.write(_MARK + json.dumps(result) + "\n")
    sys.stdout.flush()
