"""Ctrl-C, SIGTERM and SIGHUP ask a loop to stop after the current step, as does the notice that the
machine will be taken away; a second Ctrl-C or SIGTERM stops it at once."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType

from rlhf_jax.io.maintenance import MaintenanceWatch

_log = logging.getLogger(__name__)
STOPPING = (signal.SIGINT, signal.SIGTERM)
"""Ask once, and end the process the second time."""


class StopRequest:
    """Context manager that turns the first SIGINT, SIGTERM or SIGHUP into a request.

    A terminal that closes, a shell that exits and a service manager send SIGHUP beside another
    signal, so it only ever asks. Where it is ignored (`nohup`) it stays so. Handlers can only be
    set in the main thread; elsewhere (a notebook's worker thread) nothing is requested.

    Attributes:
      signum: the signal that asked, or None; SIGTERM for a notice.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, object] = {}
        self._watch = MaintenanceWatch(self._notice)

    def __enter__(self) -> "StopRequest":
        if is_main_thread():
            for signum in (*STOPPING, *hangup()):
                self._previous[signum] = signal.signal(signum, self._handle)
        self._watch.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watch.__exit__(kind, error, trace)
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        self._previous.clear()

    def _notice(self, said: str) -> None:
        _log.warning("the machine will be stopped (%s): the run saves and ends", said)
        self.signum = self.signum or signal.SIGTERM

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.signum = self.signum or signum
        if signum in STOPPING:
            at_once()


@contextlib.contextmanager
def ending_in_order() -> Iterator[None]:
    """Outside of a loop SIGTERM and SIGHUP end a run as Ctrl-C does: files are closed, and one line
    says so.

    There is nothing to save while data and models are loaded, references scored and weights
    exported.
    """
    if not is_main_thread():
        yield
        return

    def end(signum: int, frame: FrameType | None) -> None:
        at_once()
        raise KeyboardInterrupt

    previous = {signum: signal.signal(signum, end) for signum in (signal.SIGTERM, *hangup())}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def at_once() -> None:
    """From now on SIGINT and SIGTERM do what they do in any program, and SIGHUP nothing."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for signum in hangup():
        signal.signal(signum, lambda signum, frame: None)


def hangup() -> tuple[signal.Signals, ...]:
    """SIGHUP, where the system has it and nobody asked to ignore it."""
    if not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return ()
    return (signal.SIGHUP,)


def is_main_thread() -> bool:
    """Whether handlers of signals can be set here."""
    return threading.current_thread() is threading.main_thread()
