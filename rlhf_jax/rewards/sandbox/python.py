"""What a stranger's Python finds: a fresh interpreter, with names that public graders import.

Everything here is imported before the sandbox is entered and a process is forked, so that none of
it costs a candidate time.
"""

import asyncio.selector_events
import builtins
import functools
import importlib
import io
import os
import sys
import types
from typing import Any

_STARRED = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools "
    "operator io json typing fractions decimal"
)
"""``from .. import *`` of these stands in front of every solution in LiveCodeBench's grader (in
APPS' and PRIME's in part)."""
_PLAIN = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools "
    "operator io sys json time os"
)
_MORE = (
    "array asyncio base64 calendar cmath contextlib dataclasses enum hashlib inspect numbers "
    "queue secrets struct tempfile textwrap threading traceback types unittest unittest.mock uuid "
    "weakref zlib pprint string.templatelib zoneinfo"
)


def preload(packages: list[tuple[str, str]]) -> list[str]:
    """Imports what strangers' code is likely to import, and mends what the sandbox takes away.

    Args:
      packages: (name, folder that it lies in) of packages outside the standard library.

    Returns:
      Those of the packages that could be imported.
    """
    for name in (_STARRED + " " + _PLAIN + " " + _MORE).split():
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # this version of Python, or this build, has no such module
    found = []
    for name, folder in packages:
        sys.path.append(folder)
        try:
            importlib.import_module(name)
            found.append(name)
        except Exception:  # broken or built for another Python: strangers' code does without
            sys.modules.pop(name, None)
        finally:
            sys.path.remove(folder)
    sys.set_int_max_str_digits(0)
    # `site`, which defines them, is not loaded here.
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
    _loops_without_sockets()
    usual_names()
    return found


@functools.cache
def usual_names() -> dict[str, Any]:
    """The names that graders import in front of every solution. None of them hides a built-in."""
    names: dict[str, Any] = {}
    for module in _STARRED.split():
        loaded = sys.modules[module]
        public = getattr(
            loaded, "__all__", [name for name in dir(loaded) if not name.startswith("_")]
        )
        names |= {name: getattr(loaded, name) for name in public}
    names |= {name: sys.modules[name] for name in _PLAIN.split()}
    if "numpy" in sys.modules:
        names |= {"np": sys.modules["numpy"], "numpy": sys.modules["numpy"]}
    return {name: value for name, value in names.items() if name not in vars(builtins)}


def new_module(name: str) -> dict[str, Any]:
    """Makes an empty module that finds the usual names, and returns its namespace.

    The names are built-ins, not the module's own: a module that defines nothing still has nothing
    to be tested.
    """
    vars(builtins).update(usual_names())
    module = types.ModuleType(name)
    sys.modules[name] = module
    namespace = vars(module)
    namespace.update(__builtins__=builtins, __file__="main.py")
    return namespace


def open_standard_streams() -> None:
    """New text streams on descriptors 0 to 2: the old belong to what these were at the start."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        errors = "backslashreplace" if number == 2 else "surrogateescape"
        stream = open(number, mode, encoding="utf-8", errors=errors, closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def open_streams_by_path() -> None:
    """Lets a program open its standard streams by their names: there are no such files here."""
    numbers = {f"/dev/{name}": number for number, name in enumerate(("stdin", "stdout", "stderr"))}
    numbers |= {
        f"{folder}/{number}": number
        for folder in ("/dev/fd", "/proc/self/fd")
        for number in range(3)
    }
    plain = io.open
    low = os.open

    def number_of(file: Any) -> int | None:
        path = os.fspath(file) if isinstance(file, str | bytes | os.PathLike) else None
        return numbers.get(os.fsdecode(path)) if path is not None else None

    @functools.wraps(plain)
    def opened(file: Any, *arguments: Any, **named: Any) -> Any:
        number = number_of(file)
        return plain(file if number is None else os.dup(number), *arguments, **named)

    @functools.wraps(low)
    def opened_low(path: Any, *arguments: Any, **named: Any) -> int:
        number = number_of(path)
        return low(path, *arguments, **named) if number is None else os.dup(number)

    builtins.open = io.open = opened
    os.open = opened_low


class _Pipe:
    """One end of a pipe with the methods of a socket that an event loop wakes itself up with."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def recv(self, size: int) -> bytes:
        return os.read(self._descriptor, size)

    def send(self, data: bytes) -> int:
        return os.write(self._descriptor, data)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _loops_without_sockets() -> None:
    """Event loops wake up by a pair of sockets, which the sandbox lacks: a pipe does as well."""

    def make(loop: Any) -> None:
        loop._ssock, loop._csock = map(_Pipe, os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        loop._internal_fds += 1
        loop._add_reader(loop._ssock.fileno(), loop._read_from_self)

    loops = asyncio.selector_events.BaseSelectorEventLoop
    loops._make_self_pipe = make  # type: ignore[attr-defined]
