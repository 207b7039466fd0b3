"""Ctrl-C, SIGTERM and SIGHUP ask a loop to stop after the current step, as does the notice that the
machine will be taken away; a second Ctrl-C or SIGTERM stops it at once.

Python runs handlers of signals in the main thread, between two of its own instructions: while a
program is compiled or computed, that may be minutes later. The system tells a pipe at once
(`signal.set_wakeup_fd`), at whose other end a thread answers (`Answers`).
"""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType

from rlhf_jax.io.maintenance import MaintenanceWatch
from rlhf_jax.sharding.processes import is_leader

_log = logging.getLogger(__name__)
STOPPING = (signal.SIGINT, signal.SIGTERM)
"""Ask once, and end the process the second time."""
GRACE = 2.0
"""Seconds in which the main thread may leave in order after the second Ctrl-C."""
ASKED = "stopping after this step, then saving; Ctrl-C again ends at once"
_pipes: set[int] = set()
"""Ends of pipes of this module, of which the innermost listens alone."""
ENDING = "ending as soon as what is being computed is done; Ctrl-C again ends at once"


class Answers:
    """Context manager that answers signals at once, whatever the main thread computes.

    The first one is answered in words. After a second Ctrl-C or SIGTERM the main thread has `GRACE`
    seconds to leave, then the process ends as if it were killed: what is complete on disk stays.
    Of a notebook, whose process is the user's, it is never ended.

    Args:
      first: what is said to the first signal.
      saved: says at the second one what was saved last.
    """

    def __init__(self, first: str, saved: Callable[[], str]) -> None:
        self._first = first
        self._saved = saved
        self._left = threading.Event()
        self._before = -1
        self._thread: threading.Thread | None = None
        self._write = -1

    def __enter__(self) -> "Answers":
        if is_main_thread():
            read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            _pipes.add(self._write)
            self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._listen, args=(read,), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left.set()
        if self._thread is not None:
            signal.set_wakeup_fd(self._before)
            _pipes.remove(self._write)
            os.close(self._write)
            self._thread.join()
            self._thread = None

    def _listen(self, read: int) -> None:
        asked = 0
        heard = {*STOPPING, *hangup()}
        with open(read, "rb", buffering=0) as pipe:
            while numbers := pipe.read(16):
                if self._before not in (-1, *_pipes):  # a caller's event loop still hears
                    with contextlib.suppress(OSError):
                        os.write(self._before, numbers)
                for number in numbers:
                    if number not in heard or (asked and number not in STOPPING):
                        continue
                    asked += 1
                    if asked == 1:
                        _say(self._first)
                    elif asked == 2:
                        _say(f"ending at once; {self._saved()}")
                        self._end(number)

    def _end(self, number: int) -> None:
        """Ends the process unless the main thread leaves by itself."""
        is_notebook = hasattr(sys, "ps1") or "ipykernel" in sys.modules
        if self._left.wait(GRACE) or is_notebook:
            return
        if sys.stderr.isatty():  # a live display has hidden the cursor
            os.write(sys.stderr.fileno(), b"\x1b[?25h\n")
        os._exit(128 + number)


def _say(text: str) -> None:
    """Once, however many processes hear the same signal."""
    if is_leader():
        _log.info("%s", text)


class StopRequest:
    """Context manager that turns the first SIGINT, SIGTERM or SIGHUP into a request.

    A terminal that closes, a shell that exits and a service manager send SIGHUP beside another
    signal, so it only ever asks. Where it is ignored (`nohup`) it stays so. Handlers can only be
    set in the main thread; elsewhere (a notebook's worker thread) nothing is requested.

    Args:
      saved: says what was saved last, when the process is ended at once.

    Attributes:
      signum: the signal that asked, or None; SIGTERM for a notice.
    """

    def __init__(self, saved: Callable[[], str] = lambda: "nothing was saved") -> None:
        self.signum: int | None = None
        self._previous: dict[int, object] = {}
        self._answers = Answers(ASKED, saved)
        self._watch = MaintenanceWatch(self._notice)

    def __enter__(self) -> "StopRequest":
        if is_main_thread():
            for signum in (*STOPPING, *hangup()):
                self._previous[signum] = signal.signal(signum, self._handle)
        self._answers.__enter__()
        self._watch.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._answers.__exit__(kind, error, trace)
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
def ending_in_order(saved: Callable[[], str] = lambda: "nothing was saved") -> Iterator[None]:
    """Outside of a loop SIGTERM and SIGHUP end a run as Ctrl-C does: files are closed, and one line
    says so.

    There is nothing to save while data and models are loaded, references scored and weights
    exported.

    Args:
      saved: says what was saved last, when the process is ended at once.
    """
    if not is_main_thread():
        yield
        return

    def end(signum: int, frame: FrameType | None) -> None:
        at_once()
        raise KeyboardInterrupt

    previous = {signum: signal.signal(signum, end) for signum in (signal.SIGTERM, *hangup())}
    try:
        with Answers(ENDING, saved):
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
