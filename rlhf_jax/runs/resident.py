"""How much memory the process holds."""

import pathlib
import resource
import sys

_STATUS = pathlib.Path("/proc/self/status")
_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


def resident_bytes() -> int:
    """Of the process, now."""
    return _status("VmRSS") or peak_resident_bytes()


def peak_resident_bytes() -> int:
    """The most that the process has held."""
    # ru_maxrss begins with the peak of the process that started this one.
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT


def _status(field: str) -> int | None:
    """A size in the kernel's account of this process; None: there is none."""
    if not _STATUS.is_file():
        return None
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None
