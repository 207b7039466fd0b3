"""Keep freed memory in the process, so that the temporaries of a step on CPU are not page-faulted
in anew every time.

XLA on CPU allocates one buffer for all temporaries of a program at every call and frees it at the
end. glibc serves large requests with `mmap` and gives them back with `munmap`, so each call pays a
page fault per 4 KiB it touches: about 0.3 s per GB, which is more than the arithmetic of many
elementwise operations. Keeping the pages costs resident memory: the process stays at its peak.
Nothing here matters on GPU or TPU.
"""

import ctypes
import logging
import platform

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_TOP_PAD_BYTES = 64 * 2**20

_log = logging.getLogger(__name__)


def retain_freed_memory() -> bool:
    """Tells glibc's malloc to keep what is freed and to reuse it, for the whole process, from now
    on.

    Four settings, each needed (mallopt(3)): no request is served by `mmap` (`M_MMAP_MAX=0`; raising
    `M_MMAP_THRESHOLD` is not enough, glibc refuses more than 32 MiB); the heap is never trimmed
    (`M_TRIM_THRESHOLD=-1`) and grows in steps of 64 MiB (`M_TOP_PAD`); and all threads share the
    main heap (`M_ARENA_MAX=1`), because the heap of another thread cannot hold more than 64 MiB and
    falls back to `mmap`. The last acts only on threads that have not allocated yet, so call this at
    the start of a program, before JAX has started its backend. It changes the process for all
    libraries in it: a library must not call it on import, an entry point may.

    Returns:
        True when all settings were accepted; False, with nothing changed, where the C library is
        not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    settings = (
        (_M_ARENA_MAX, 1),
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, -1),
        (_M_TOP_PAD, _TOP_PAD_BYTES),
    )
    refused = [name for name, value in settings if mallopt(name, value) != 1]
    if refused:
        _log.warning("malloc refused the settings %s; steps on CPU may be slower", refused)
    return not refused
