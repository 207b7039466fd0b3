"""Ctrl-C and SIGTERM ask a loop to stop after the current step; a second one stops it at once."""

import signal
import threading
from types import FrameType, TracebackType


class StopRequest:
    """Context manager that turns the first SIGINT or SIGTERM into a request.

    Handlers can only be set in the main thread; elsewhere (a notebook's worker thread) nothing is requested.

    Attributes:
      signum: the signal that asked, or None.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        self._previous.clear()
