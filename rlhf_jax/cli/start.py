"""The command as a program of its own: sets up the process, then runs `main`."""

import contextlib
import os
import pathlib
import platform
import sys

from rlhf_jax.cli.main import main

_TUNABLE = "glibc.malloc.hugetlb"
_KERNEL = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ASKED = f"{_TUNABLE}=1"
_RESTARTED = "rlhf_jax_restarted"
_COMPUTING = ("train", "evaluate", "compare", "generate", "quickstart", "bench")


def start() -> int:
    """Runs the command of this process, in a process that uses huge pages where that helps.

    XLA on CPU allocates the temporaries of a program at every call, and glibc gives them back to
    the system behind it: each call pays for every page that it touches anew, 0.2 to 1 s per GB with
    pages of 4 KiB. Asked for huge pages, the system hands out 2 MiB at a time. glibc reads the
    setting when a process starts, so the process is replaced by itself; its number stays.

    Returns:
        The exit code.
    """
    if _RESTARTED in sys._xoptions:
        _forget()
    elif sys.argv[1:2] and sys.argv[1] in _COMPUTING and lacks_huge_pages():
        _restart()
    return main(interrupted=_leave)


def _leave() -> None:
    """Ends the process as it stands: a program that is being compiled in the background would hold
    it up for as long as that takes, and crash when Python is taken down below it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)


def _restart() -> None:
    """Replaces the process; returns where that is not possible: it only makes things faster."""
    if not sys.executable or "-" in sys.orig_argv:  # a program read from stdin is used up
        return
    given = os.environ.get("GLIBC_TUNABLES")
    wanted = ":".join(filter(None, (given, _ASKED)))
    # The option says that this was tried, whatever becomes of the environment.
    again = [sys.executable, "-X", _RESTARTED, *sys.orig_argv[1:]]
    with contextlib.suppress(OSError):
        os.execve(sys.executable, again, os.environ | {"GLIBC_TUNABLES": wanted})


def _forget() -> None:
    """Takes the setting from the environment again: it is for this process, not for those that it
    starts, whose memory may be limited."""
    left = os.environ.pop("GLIBC_TUNABLES", "").removesuffix(_ASKED).removesuffix(":")
    if left:
        os.environ["GLIBC_TUNABLES"] = left


def lacks_huge_pages(kernel: pathlib.Path = _KERNEL) -> bool:
    """Whether malloc could have huge pages, but has not asked for them; nor has the user refused.

    Args:
      kernel: the file in which the system says who gets them.
    """
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35):
        return False
    if _TUNABLE in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    # "always": everybody has them; "madvise": who asks; "never": nobody.
    try:
        return "[madvise]" in kernel.read_text()
    except OSError:
        return False
