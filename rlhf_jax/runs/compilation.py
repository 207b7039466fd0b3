"""Compiled programs kept on disk, so that a second start compiles nothing.

XLA's output depends on the program, the compiler and the hardware, all of which are part of JAX's
key: a folder may be shared by everything that a user runs.
"""

import contextlib
import logging
import os
import pathlib
from collections.abc import Iterator

import jax

_log = logging.getLogger(__name__)
AUTO = "auto"
COMPILED = "/jax/core/compile/backend_compile_duration"
READ = "/jax/compilation_cache/cache_hits"


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
def keep_programs(setting: str | None) -> Iterator[None]:
    """Compiled programs are kept while this lasts; afterwards the log says what was compiled.

    Where the process has a cache already (a caller's, or the tests'), that one is used.

    Args:
      setting: `training.compilation_cache`.
    """
    folder = cache_folder(setting)
    given = folder_in_use()
    if given is None and folder is not None and _is_writable(folder):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # Also the small ones: a second start compiles nothing.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    counted = _Counted()
    jax.monitoring.register_event_duration_secs_listener(counted.took)
    jax.monitoring.register_event_listener(counted.happened)
    try:
        yield
    finally:
        counted.is_open = False
        used = folder_in_use()
        _log.info(
            "compiled %d programs in %.1f s, read %d from %s",
            max(counted.programs - counted.hits, 0),
            counted.seconds,
            counted.hits,
            used if used is not None else "no cache",
        )
        if given is None and used is not None:
            jax.config.update("jax_compilation_cache_dir", None)


def folder_in_use() -> str | None:
    """Where this process keeps compiled programs; None: nowhere."""
    found: str | None = jax.config.values["jax_compilation_cache_dir"]
    return found


class _Counted:
    """What was compiled. Listeners of JAX cannot be taken back, so this one falls silent."""

    def __init__(self) -> None:
        self.is_open = True
        self.programs = 0
        self.hits = 0
        self.seconds = 0.0

    def took(self, event: str, duration_secs: float, **further: str | int) -> None:
        if self.is_open and event == COMPILED:
            self.programs += 1
            self.seconds += duration_secs

    def happened(self, event: str, **further: str | int) -> None:
        if self.is_open and event == READ:
            self.hits += 1


def _is_writable(folder: pathlib.Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("compiled programs are not kept: %s (%s)", folder, error.strerror)
        return False
    return os.access(folder, os.W_OK)
