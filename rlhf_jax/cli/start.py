"""The command as a program of its own: sets up the process, then runs `main`."""

import os
import pathlib
import platform
import sys

from rlhf_jax.cli.main import main

_TUNABLE = "glibc.malloc.hugetlb"
_KERNEL = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
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
    if sys.argv[1:2] and sys.argv[1] in _COMPUTING and lacks_huge_pages():
        given = os.environ.get("GLIBC_TUNABLES")
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (given, f"{_TUNABLE}=1")))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    return main()


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
    return kernel.is_file() and "[madvise]" in kernel.read_text()
