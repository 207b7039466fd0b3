"""What a process does to itself before it runs a stranger's code. Linux; in the sandbox.

Layers, each enough against some attacks and all together against each of them twice:

* limits: processor time, memory, file size, open files, no core files; with namespaces also
  threads;
* namespaces: own users, processes, network (not even loopback), semaphores and host name, and a
  root of its own in memory that holds the standard library, shared libraries, time zones and an
  empty folder, and vanishes with the process;
* landlock: only the standard library, shared libraries and time zones can be read, only the working
  folder can be written;
* seccomp: see `rlhf_jax.rewards.sandbox.seccomp`;
* no capabilities, no new privileges.
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
import sysconfig
from collections.abc import Sequence
from typing import NamedTuple

from rlhf_jax.rewards.sandbox import seccomp

_CLONE_NAMESPACES = 0x10000000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000
_CLONE_MOUNTS = 0x00020000
_MS_NOSUID = 2
_MS_NODEV = 4
_MS_NOEXEC = 8
_MS_BIND = 4096
_MS_MOVE = 8192
_MS_REC = 16384
_MS_PRIVATE = 1 << 18
_MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_LANDLOCK_CREATE = 444
_LANDLOCK_ADD = 445
_LANDLOCK_RESTRICT = 446
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_READ_FILE = 4
_WRITE_FILE = 2
_READ_DIR = 8
_TRUNCATE = 1 << 14
_ROOT_OPTIONS = b"size=64m,nr_inodes=2048,mode=755"
_NOBODY = 65534
_THREADS = 64
_STACK = 2**26
_PLACES = ("/mnt", "/media", "/srv", "/tmp", "/var/tmp", "/dev/shm")
_FOLDERS = ("/sandbox", "/.sandbox")
_DEVICES = ("/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/null")
_INTERPRETER_LIBRARIES = tuple(
    f"lib{name}"
    for name in (
        "python ssl crypto sqlite3 ffi z lzma bz2 expat ncurses tinfo readline uuid mpdec gcc_s "
        "stdc++"
    ).split()
)
"""Shared libraries beside an interpreter that is not the system's own; what else lies there is not
for strangers."""

_libc = ctypes.CDLL(None, use_errno=True)


class Limits(NamedTuple):
    """What the kernel holds one process to."""

    seconds: int
    """Processor time."""
    memory: int
    """Bytes of address space beyond those of the bare interpreter."""
    file_size: int
    """Bytes."""


class Places(NamedTuple):
    """What can be seen; made once by `places`: looking around takes longer than a start."""

    trees: tuple[str, ...]
    """Files and folders that exist in the root of their own (with namespaces)."""
    covered: tuple[str, ...]
    """Folders in them that are empty there."""
    readable: tuple[str, ...]
    """Files and folders in the trees that can be read, where nothing covers the others."""
    folder: str
    """Where files can be written (with namespaces): a folder with none of the trees below it."""
    size: int
    """Bytes of address space of the bare interpreter."""
    data: int
    """Those of them that can be written."""


def places(extra: Sequence[str]) -> Places:
    """Looks for the standard library and what it needs.

    Args:
      extra: more files and folders to be read.
    """
    standard = sorted({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})
    own = f"{sys.base_prefix}/lib"
    system = [p for p in ("/lib", "/lib64", "/usr/lib", "/usr/lib64") if os.path.isdir(p)]
    multiarch = [f"{p}/{sysconfig.get_config_var('MULTIARCH')}" for p in ("/lib", "/usr/lib")]
    # Debian: libraries have folders of their own, packages lie beside them
    if any(os.path.isdir(p) for p in multiarch):
        readable = multiarch + [p for p in system if p.endswith("64")]
    else:
        readable = list(system)
    if own not in system and os.path.isdir(own):
        readable += [
            f"{own}/{name}"
            for name in os.listdir(own)
            if name.startswith(_INTERPRETER_LIBRARIES) and ".so" in name
        ]
    covered = [
        f"{p}/{name}"
        for p in [*standard, "/usr/lib/python3"]
        for name in ("site-packages", "dist-packages")
    ]
    for folder in standard:
        readable += [
            path for name in os.listdir(folder) if (path := f"{folder}/{name}") not in covered
        ]
    trees = [*system, own, *standard, "/usr/share/zoneinfo", *_DEVICES, *extra]
    pages = _pages()
    return Places(
        trees=tuple(path for path in dict.fromkeys(trees) if os.path.exists(path)),
        covered=tuple(path for path in dict.fromkeys(covered) if os.path.isdir(path)),
        readable=tuple(
            path
            for path in dict.fromkeys([*readable, "/usr/share/zoneinfo", *extra])
            if os.path.exists(path)
        ),
        folder=next(
            folder
            for folder in _FOLDERS
            if not any(tree.startswith(f"{folder}/") for tree in trees)
        ),
        size=pages[0],
        data=pages[1],
    )


def die_with_parent() -> None:
    """Makes the kernel end this process when its parent ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "parent death signal")


def separate() -> None:
    """Gives this process namespaces of its own; its next child is first in its own world.

    Raises:
      OSError: the system does not allow it.
    """
    user = os.geteuid()
    group = os.getegid()
    _check(_libc.unshare(_CLONE_NAMESPACES), "namespaces")
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{_NOBODY} {user} 1"),
        ("gid_map", f"{_NOBODY} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def enter(limits: Limits, seen: Places, *, namespaces: bool, abi: int | None) -> None:
    """Applies the layers to this process, for good.

    Args:
      limits: of this process.
      seen: what it can read.
      namespaces: whether `separate` went before; not every container allows it. The other layers
        are always applied. With namespaces the current folder is then one that can be written;
        without, nothing can be written.
      abi: use no newer version of Landlock than this; None: the kernel's own.

    Raises:
      OSError: a layer cannot be applied. The caller must not go on then.
    """
    die_with_parent()
    _limit(limits, seen, namespaces=namespaces)
    if namespaces:
        _new_root(seen)
    os.chdir(seen.folder if namespaces else "/")
    _drop_capabilities()
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    # What of the trees is not to be read is not there in a root of one's own: few rules do.
    readable = seen.trees if namespaces else seen.readable
    _confine_files(readable, seen.folder if namespaces else None, abi)
    seccomp.install()


def _limit(limits: Limits, seen: Places, *, namespaces: bool) -> None:
    wanted = {
        "CPU": limits.seconds,
        "AS": seen.size + limits.memory,
        "DATA": seen.data + limits.memory,
        "FSIZE": limits.file_size,
        "NOFILE": 64,
        "CORE": 0,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
    }
    # Elsewhere, and before Linux 5.14, the kernel counts all threads of the user against it, those
    # of the trainer too.
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    if namespaces and release >= (5, 14):
        wanted["NPROC"] = _THREADS
    for name, value in wanted.items():
        number = resource.__dict__[f"RLIMIT_{name}"]
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = _STACK if hard == resource.RLIM_INFINITY else min(_STACK, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, hard))


def _new_root(seen: Places) -> None:
    # Not before the fork: who shares the mounts, as the warden would, gets the new root as well.
    _check(_libc.unshare(_CLONE_MOUNTS), "a namespace of mounts")
    _check(_libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "private mounts")
    # Nothing of what is shown may lie below the place, which hides it.
    free = [
        p
        for p in _PLACES
        if os.path.isdir(p) and not any(tree.startswith(f"{p}/") for tree in seen.trees)
    ]
    if not free:
        raise OSError(
            errno.ENOENT,
            f"sandbox: none of {', '.join(_PLACES)} is a folder without the standard library in it",
        )
    root = free[0]
    _mount(b"tmpfs", root, b"tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, _ROOT_OPTIONS)
    shown: list[str] = []
    for path in sorted(seen.trees):
        if any(path.startswith(f"{above}/") for above in shown):
            continue  # a folder above it is there as a whole
        target = root + path
        if os.path.islink(path) and os.path.realpath(path) in seen.trees:  # /lib of most systems
            os.symlink(os.path.realpath(path), target)
            continue
        if os.path.isdir(path):
            os.makedirs(target)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
        _mount(os.path.realpath(path).encode(), target, None, _MS_BIND | _MS_REC, None)
        shown.append(path)
    for path in seen.covered:
        _mount(
            b"tmpfs",
            root + path,
            b"tmpfs",
            _MS_NOSUID | _MS_NODEV | _MS_NOEXEC,
            b"size=4k,nr_inodes=2,mode=555",
        )
    os.mkdir(root + seen.folder, mode=0o700)
    os.chdir(root)
    if _libc.syscall(_PIVOT_ROOT[platform.machine()], b".", b".") == 0:
        _check(_libc.umount2(b".", _MNT_DETACH), "leaving the old root")
    else:  # the first root of a system cannot be exchanged, only covered
        _mount(b".", "/", None, _MS_MOVE, None)
        os.chroot(".")
    os.chdir("/")


def _mount(
    source: bytes, target: str, kind: bytes | None, flags: int, options: bytes | None
) -> None:
    _check(_libc.mount(source, target.encode(), kind, flags, options), f"mount on {target}")


def _drop_capabilities() -> None:
    number = 0
    while _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) == 0:
        number += 1
    header = struct.pack("Ii", 0x20080522, 0)
    _check(_libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(bytes(24))), "no capabilities")


_RIGHTS = ((2, 13), (3, 14), (5, 15))
"""(version of Landlock, rights over files that all before it know)."""
_SIZES = ((4, 8), (6, 16))
"""(version of Landlock, bytes of the attributes that all before it take)."""


def _confine_files(readable: Sequence[str], writable: str | None, abi: int | None) -> None:
    version = _check(_libc.syscall(_LANDLOCK_CREATE, None, 0, 1), "landlock")
    version = version if abi is None else min(version, abi)
    rights = next((known for below, known in _RIGHTS if version < below), 16)
    every = (1 << rights) - 1
    attributes = struct.pack("QQQ", every, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = next((known for below, known in _SIZES if version < below), 24)
    rules = _check(
        _libc.syscall(_LANDLOCK_CREATE, ctypes.c_char_p(attributes), ctypes.c_size_t(size), 0),
        "landlock",
    )
    for path in readable:
        _allow(rules, path, _READ_FILE | _READ_DIR if os.path.isdir(path) else _READ_FILE)
    for path in ("/etc/ld.so.cache", "/etc/localtime", "/dev/urandom"):
        _allow(rules, path, _READ_FILE)
    _allow(rules, "/dev/null", _READ_FILE | _WRITE_FILE | (_TRUNCATE & every))
    if writable is not None:
        _allow(rules, writable, every & ~1)
    _check(_libc.syscall(_LANDLOCK_RESTRICT, rules, 0), "landlock")
    os.close(rules)


def _allow(rules: int, path: str, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    rule = struct.pack("=Qi", access, descriptor)
    _check(
        _libc.syscall(_LANDLOCK_ADD, rules, 1, ctypes.c_char_p(rule), 0),
        f"landlock rule for {path}",
    )
    os.close(descriptor)


def _pages() -> tuple[int, int]:
    try:
        with open("/proc/self/statm") as file:
            numbers = [int(word) * resource.getpagesize() for word in file.read().split()]
    except OSError:
        return 0, 0  # no /proc here: the interpreter's own memory counts as the candidate's
    return numbers[0], numbers[5]


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"sandbox: {what}: {os.strerror(ctypes.get_errno())}")
    return result
