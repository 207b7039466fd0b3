"""How much memory the process holds, and the machine has left."""

import os
import pathlib
import resource
import sys

_STATUS = pathlib.Path("/proc/self/status")
_MACHINE = pathlib.Path("/proc/meminfo")
_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


def resident_bytes() -> int:
    """Of the process, now."""
    return _field(_STATUS, "VmRSS") or peak_resident_bytes()


def peak_resident_bytes() -> int:
    """The most that the process has held."""
    # ru_maxrss begins with the peak of the process that started this one.
    return _field(_STATUS, "VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT


def available_bytes() -> int:
    """Of the machine, for whoever asks for more: free, or a cache of files."""
    found = _field(_MACHINE, "MemAvailable")
    if found is not None:
        return found
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _field(file: pathlib.Path, name: str) -> int | None:
    """A size in one of the kernel's accounts; None: there is no such account."""
    if not file.is_file():
        return None
    for line in file.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
