"""A budget of time and memory for foreign code in this process: a folder's chat template."""

import ctypes
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

SECONDS = 10.0
"""Processor time of one call; a conversation takes milliseconds."""
MEMORY = 2**30
"""Bytes by which the process may grow during one call that lasts longer than `_INTERVAL`."""
_INTERVAL = 0.1
_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss

_Result = TypeVar("_Result")


class BudgetExceeded(Exception):
    """Raised inside the call that takes too long or too much."""


@dataclass
class _Call:
    thread: int
    seconds: float
    started: float
    memory: int
    fired: str | None = None


_lock = threading.Lock()
_calls: dict[int, _Call] = {}
_watcher: threading.Thread | None = None


def within_budget(work: Callable[[], _Result]) -> _Result:
    """Calls `work`, and ends it when it exceeds `SECONDS` of processor time or `MEMORY`.

    A second thread looks at it every tenth of a second and raises the exception between two of its
    steps. A single step that never ends (one huge power) cannot be interrupted that way;
    `check_chat_template` refuses those it knows.

    Raises:
        BudgetExceeded: says what was exceeded.
    """
    call = _begin()
    try:
        try:
            return work()
        finally:
            _end(call)
    except BudgetExceeded:
        _end(call)  # the exception may have come in the middle of the first _end
        raise BudgetExceeded(call.fired or "budget exceeded") from None


def _begin() -> _Call:
    global _watcher
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
    call = _Call(threading.get_ident(), SECONDS, time.thread_time(), peak)
    with _lock:
        _calls[call.thread] = call
        if _watcher is None:
            _watcher = threading.Thread(target=_watch, name="template budget", daemon=True)
            _watcher.start()
    return call


def _end(call: _Call) -> None:
    with _lock:
        if _calls.get(call.thread) is call:
            del _calls[call.thread]
            if call.fired:  # not delivered yet: it must not strike what comes after the call
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(call.thread), None)


def _watch() -> None:
    """Looks at the calls until none came for two looks; the next call starts a watcher anew."""
    global _watcher
    idle = 0
    while True:
        time.sleep(_INTERVAL)
        with _lock:
            idle = 0 if _calls else idle + 1
            if idle > 2:
                _watcher = None
                return
            for call in _calls.values():
                call_off(call)


def call_off(call: _Call) -> None:
    """Raises `BudgetExceeded` in the call's thread, once, when the budget is used up."""
    if call.fired:
        return
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT - call.memory
    if grown > MEMORY:
        call.fired = f"it takes more than {MEMORY / 2**30:g} GiB of memory"
    elif _processor_time(call.thread) - call.started > call.seconds:
        call.fired = f"it takes more than {call.seconds:g} s of processor time"
    if call.fired:
        exception = ctypes.py_object(BudgetExceeded)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(call.thread), exception)


def _processor_time(thread: int) -> float:
    """Of another thread, which is alive: its call is registered."""
    # has no clock of another thread; that of the process runs at least as fast
    if sys.platform == "darwin":
        return time.process_time()
    return time.clock_gettime(time.pthread_getcpuclockid(thread))


def _after_fork() -> None:
    """A forked process has the forking thread only."""
    global _lock, _watcher
    _lock = threading.Lock()
    _watcher = None
    _calls.clear()


os.register_at_fork(after_in_child=_after_fork)
