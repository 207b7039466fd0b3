"""Keeps orbax from telling one error many times: it is raised once, and becomes one line.

When a file cannot be read or written, orbax logs the traceback that it also raises, leaves
coroutines behind whose exceptions nobody fetches, and closes the event loop that tensorstore's
threads still answer to. All of that would be printed.
"""

import logging
import sys
import traceback
from types import TracebackType
from typing import Any


def silence_orbax() -> None:
    """Filters out what comes from orbax, and nothing else. Doing it again changes nothing."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_shown)
    if not isinstance(sys.unraisablehook, _UnraisableHook):
        sys.unraisablehook = _UnraisableHook(sys.unraisablehook)


class _UnraisableHook:
    """`sys.unraisablehook` hears of exceptions in dropped coroutines and foreign callbacks."""

    def __init__(self, inner: Any):
        self._inner = inner

    def __call__(self, unraisable: Any) -> None:
        code = unraisable.object.cr_code if hasattr(unraisable.object, "cr_code") else None
        is_coroutine = code is not None and "orbax" in code.co_filename
        if not is_coroutine and not _is_leftover(unraisable.exc_value, unraisable.exc_traceback):
            self._inner(unraisable)


def _is_leftover(error: BaseException | None, trace: TracebackType | None) -> bool:
    """Whether an error came from orbax's coroutines or threads, tensorstore, or a closed loop."""
    if "tensorstore_spec=" in str(error):
        return True
    frames = traceback.extract_tb(trace)
    if not frames:
        return False
    is_late = frames[0].name == "call_soon_threadsafe" and frames[-1].name == "_check_closed"
    return is_late or "orbax" in frames[0].filename


def _is_shown(record: logging.LogRecord) -> bool:
    error, trace = record.exc_info[1:] if record.exc_info else (None, None)
    return "orbax" not in record.pathname and not _is_leftover(error, trace)
