"""What a process does to itself before it runs a stranger's code. Linux; runs inside the sandboxed process.

Layers, each enough against some attacks and all together against each of them twice:

* limits: processor time, memory, file size, open files, processes, no core files;
* namespaces: own users, processes, network (not even loopback), mounts (the working folder is a small memory file system that
  vanishes with the process), semaphores and host name;
* landlock: only the standard library, shared libraries and time zones can be read, only the working folder can be written;
* seccomp: see `rlhf_jax.rewards.sandbox.seccomp`;
* no capabilities, no new privileges.
"""

import ctypes
import os
import resource
import signal
import struct
import sys
import sysconfig

from rlhf_jax.rewards.sandbox import seccomp

_CLONE_NAMESPACES = 0x10000000 | 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 2, 4, 8, 16384, 1 << 18
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ, _WRITE_FILE, _TRUNCATE = 4 | 8, 2, 1 << 14
_FOLDER_OPTIONS = b"size=64m,nr_inodes=1024,mode=700"
_NOBODY = 65534

_libc = ctypes.CDLL(None, use_errno=True)


def enter(*, namespaces: bool, seconds: int, memory: int, folder: str) -> None:
    """Applies the layers to this process; afterwards the current folder is `folder`.

    With namespaces the process forks: the caller goes on in the child, which is the first process of its namespace; the
    parent waits for it, exits as it did, and kills it on SIGTERM.

    Args:
      namespaces: whether to use them; not every container allows it. The other layers are always applied.
      seconds: processor time.
      memory: bytes of address space.
      folder: where the program runs. It can be written only with namespaces, where an empty memory file system covers it.

    Raises:
      OSError: a layer cannot be applied. The caller must not go on then.
    """
    _die_with_parent()
    _limit(seconds, memory)
    if namespaces:
        _unshare()
        _fork_into_namespace()
        _mount_folder(folder)
    os.chdir(folder)
    _drop_capabilities()
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _confine_files(folder if namespaces else None)
    seccomp.install()


def _die_with_parent() -> None:
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "parent death signal")


def _limit(seconds: int, memory: int) -> None:
    wanted = {
        "CPU": seconds,
        "AS": memory,
        "DATA": memory,
        "FSIZE": 2**24,
        "NOFILE": 64,
        "NPROC": 64,
        "CORE": 0,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
    }
    for name, value in wanted.items():
        number = resource.__dict__[f"RLIMIT_{name}"]
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))


def _unshare() -> None:
    user, group = os.geteuid(), os.getegid()
    _check(_libc.unshare(_CLONE_NAMESPACES), "namespaces")
    for name, line in (("setgroups", "deny"), ("uid_map", f"{_NOBODY} {user} 1"), ("gid_map", f"{_NOBODY} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def _fork_into_namespace() -> None:
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGKILL))
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _die_with_parent()
        return
    for descriptor in range(64):
        try:
            os.close(descriptor)
        except OSError:
            pass
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os._exit(status if status >= 0 else 128 - status)


def _mount_folder(folder: str) -> None:
    _check(_libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "private mounts")
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _check(_libc.mount(b"tmpfs", folder.encode(), b"tmpfs", flags, _FOLDER_OPTIONS), "a folder in memory")


def _drop_capabilities() -> None:
    number = 0
    while _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) == 0:
        number += 1
    header = struct.pack("Ii", 0x20080522, 0)
    _check(_libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(bytes(24))), "no capabilities")


def _confine_files(writable: str | None) -> None:
    version = _check(_libc.syscall(_LANDLOCK_CREATE, None, 0, 1), "landlock")
    every = (1 << (13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16)) - 1
    attributes = struct.pack("QQQ", every, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = _check(_libc.syscall(_LANDLOCK_CREATE, ctypes.c_char_p(attributes), ctypes.c_size_t(size), 0), "landlock")
    readable = {sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["platstdlib"], f"{sys.base_prefix}/lib"}
    readable |= {"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo"}
    for path in readable:
        _allow(rules, path, _READ)
    for path in ("/etc/ld.so.cache", "/etc/localtime", "/dev/urandom"):
        _allow(rules, path, 4)
    _allow(rules, "/dev/null", 4 | _WRITE_FILE | (_TRUNCATE & every))
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
    _check(_libc.syscall(_LANDLOCK_ADD, rules, 1, ctypes.c_char_p(rule), 0), f"landlock rule for {path}")
    os.close(descriptor)


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"sandbox: {what}: {os.strerror(ctypes.get_errno())}")
    return result
