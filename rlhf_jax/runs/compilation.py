"""Compiled programs kept on disk, so that a second start compiles nothing.

XLA's output depends on the program, the compiler and the hardware, all of which are part of JAX's
key: a folder may be shared by everything that a user runs.
"""

import collections
import contextlib
import logging
import os
import pathlib
import threading
from collections.abc import Callable, Iterator

import jax

from rlhf_jax.programs import Call, called, preparing

_log = logging.getLogger(__name__)
AUTO = "auto"
COMPILED = "/jax/core/compile/backend_compile_duration"
READ = "/jax/compilation_cache/cache_hits"
PREPARED = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
)
_LONG = 1.0
"""Seconds from which on a small program is no small one."""
_open: list["_Compilations"] = []
"""That listen, outermost first: a comparison, and the run in it."""


def cache_folder(setting: str | None) -> pathlib.Path | None:
    """The folder of compiled programs.

    Args:
      setting: a folder; "auto": JAX_COMPILATION_CACHE_DIR, else the user's cache folder; None:
        nothing is kept.
    """
    if setting is None:
        return None
    if setting != AUTO:
        return pathlib.Path(setting).expanduser()
    if given := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return pathlib.Path(given).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    root = pathlib.Path(home) if home else pathlib.Path.home() / ".cache"
    return root / "rlhf_jax" / "xla"


@contextlib.contextmanager
def keep_programs(
    setting: str | None, *, busy: Callable[[str | None], None] = lambda text: None
) -> Iterator[None]:
    """Compiled programs are kept while this lasts, and the log says what is compiled: a line before
    and one after each of the run's programs (`rlhf_jax.programs`), and all small ones together at
    the end.

    Where the process has a cache already (a caller's, or the tests'), that one is used.

    Args:
      setting: `training.compilation_cache`.
      busy: hears what is being compiled, and None when it is done.
    """
    folder = cache_folder(setting)
    given = folder_in_use()
    if given is None and folder is not None and _is_writable(folder):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # Also the small ones: a second start compiles nothing.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    found = _Compilations()
    jax.monitoring.register_event_duration_secs_listener(found.took)
    jax.monitoring.register_event_listener(found.happened)
    _open.append(found)

    def prepares(program: str | None) -> None:
        text = None if program is None else f"compiling {program}, once per shape"
        if text is not None:
            _log.info("%s", text)
        busy(text)

    try:
        with preparing(prepares):
            yield
    finally:
        found.is_open = False
        _open.remove(found)
        _log.info("%s", found.summary())
        if given is None and folder_in_use() is not None:
            jax.config.update("jax_compilation_cache_dir", None)


def folder_in_use() -> str | None:
    """Where this process keeps compiled programs; None: nowhere."""
    found: str | None = jax.config.values["jax_compilation_cache_dir"]
    return found


def seconds_compiling() -> float:
    """Seconds that this run has spent until now on programs instead of computing: tracing and
    lowering its named ones, compiling them and all small ones, or reading them from the cache; 0
    outside `keep_programs`."""
    return _open[-1].seconds + _open[-1].traced if _open else 0.0


class _Compilations:
    """What was compiled. Listeners of JAX cannot be taken back, so this one falls silent."""

    def __init__(self) -> None:
        self.is_open = True
        self.programs = 0
        self.hits = 0
        self.seconds = 0.0
        self.traced = 0.0
        """Seconds of tracing and lowering the named programs."""
        self.named: collections.Counter[str] = collections.Counter()
        self.others = 0.0
        """Seconds for programs without a name."""
        self.longest = ("", 0.0)
        """The one of these that took longest, as the compiler calls it."""
        self._prepared = 0.0
        # What is read is told before how long it took, in the same thread.
        self._readers: set[int] = set()

    def took(self, event: str, duration_secs: float, **further: str | int) -> None:
        if not self.is_open or event not in (*PREPARED, COMPILED):
            return
        function = str(further.get("fun_name", ""))
        call = called()
        is_own = call is not None and function in (call.function, f"jit({call.function})")
        if event in PREPARED:
            self._prepared += duration_secs if is_own else 0.0
            self.traced += duration_secs if is_own else 0.0
            return
        self.programs += 1
        self.seconds += duration_secs
        was_read = threading.get_ident() in self._readers
        self._readers.discard(threading.get_ident())
        if call is not None and is_own:
            self.named[call.name] += 1
            self._tell(call, duration_secs, was_read=was_read)
        else:
            self.others += duration_secs
            self.longest = max(self.longest, (function, duration_secs), key=lambda one: one[1])

    def happened(self, event: str, **further: str | int) -> None:
        if self.is_open and event == READ:
            self.hits += 1
            self._readers.add(threading.get_ident())

    def _tell(self, call: Call, seconds: float, *, was_read: bool) -> None:
        traced = self._prepared
        self._prepared = 0.0
        if self is not _open[-1]:  # the run in it says so
            return
        how = "read from the cache" if was_read else "compiled"
        place = f"{call.name} ({call.describe()})"
        _log.info("%s: %s in %.1f s, traced in %.1f s", place, how, seconds, traced)

    def summary(self) -> str:
        """One line: programs, seconds, and how many of which."""
        used = folder_in_use()
        place = "no cache" if used is None else used
        compiled = max(self.programs - self.hits, 0)
        text = (
            f"compiled {compiled} programs in {self.seconds:.1f} s, read {self.hits} from {place}"
        )
        parts = [f"{count} {name}" for name, count in self.named.items()]
        small = self.programs - self.named.total()
        if small:
            parts.append(f"{small} small ones in {self.others:.1f} s")
        if self.longest[1] >= _LONG:
            parts[-1] += f" (longest: {self.longest[0]}, {self.longest[1]:.1f} s)"
        return f"{text}: {', '.join(parts)}" if parts else text


def _is_writable(folder: pathlib.Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("compiled programs are not kept: %s (%s)", folder, error.strerror)
        return False
    return os.access(folder, os.W_OK)
