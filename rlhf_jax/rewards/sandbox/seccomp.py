"""A seccomp filter that leaves what computing needs (Linux on x86-64 and aarch64)."""

import ctypes
import errno
import functools
import platform
import struct

ALLOWED = """
    read 0 63, write 1 64, close 3 57, fstat 5 80, lseek 8 62, mmap 9 222, mprotect 10 226, munmap
    11 215, brk 12 214, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, pread64 17
    67, pwrite64 18 68, readv 19 65, writev 20 66, access 21 -, pipe 22 -, select 23 -, sched_yield
    24 124, mremap 25 216, madvise 28 233, dup 32 23, dup2 33 -, nanosleep 35 101, getpid 39 172,
    exit 60 93, uname 63 160, flock 73 32, fsync 74 82, fdatasync 75 83, ftruncate 77 46, getdents64
    217 61, getcwd 79 17, chdir 80 49, fchdir 81 50, rename 82 -, mkdir 83 -, rmdir 84 -, unlink 87
    -, readlink 89 -, gettimeofday 96 169, getrlimit 97 163, getrusage 98 165, sysinfo 99 179, times
    100 153, getuid 102 174, getgid 104 176, geteuid 107 175, getegid 108 177, getppid 110 173,
    getpgrp 111 -, getresuid 118 148, getresgid 120 150, sigaltstack 131 132, gettid 186 178, futex
    202 98, sched_getaffinity 204 123, set_tid_address 218 96, clock_gettime 228 113, clock_getres
    229 114, clock_nanosleep 230 115, exit_group 231 94, stat 4 -, lstat 6 -, newfstatat 262 79,
    statx 332 291, mkdirat 258 34, unlinkat 263 35, renameat 264 38, renameat2 316 276, readlinkat
    267 78, faccessat 269 48, faccessat2 439 439, pselect6 270 72, ppoll 271 73, poll 7 -,
    set_robust_list 273 99, dup3 292 24, pipe2 293 59, getrandom 318 278, rseq 334 293, membarrier
    324 283, restart_syscall 219 128, umask 95 166, epoll_create1 291 20, epoll_ctl 233 21,
    epoll_wait 232 -, epoll_pwait 281 22, eventfd2 290 19, time 201 -, getcpu 309 168, statfs 137
    43, fstatfs 138 44, msync 26 227
"""
"""System calls that are let through: name, number on x86-64, number on aarch64. Files can be
emptied by ftruncate alone, whose file has been opened for writing: `truncate` takes a path, which
Landlock looks at only from its third version (Linux 6.2)."""

_LOAD = 0x20
_EQUAL = 0x15
_BITS = 0x45
_AND = 0x54
_RETURN = 0x06
_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_ERROR = 0x00050000
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_CLONE = (56, 220)
_FCNTL = (72, 25)
_PRLIMIT = (302, 261)
_IOCTL = (16, 29)
_NONE = -1
_OPEN = (2, _NONE)
_OPENAT = (257, 56)
_O_ACCMODE = 3
_O_TRUNC = 0o1000
_CLONE_THREAD = 0x10000
_FCNTL_REFUSED = (8, 10, 15, 1024, 1026, 1031)
"""Those that make the kernel send signals to other processes, watch folders or enlarge pipes."""
_NUMBER = 0
_ARCHITECTURE = 4
_FIRST = 16
_SECOND = 24
_THIRD = 32
"""Offsets into struct seccomp_data; the low halves of the first three arguments."""
_PR_SET_SECCOMP = 22
_MODE_FILTER = 2


def install() -> None:
    """Filters this process and all its future threads, for good. Needs no_new_privs.

    Allowed: reading and writing open files, memory, clocks, threads, and files as far as Landlock
    lets them be opened. Refused (the call fails): new processes and programs, sockets, signals,
    other processes' state, shared memory, mounts, namespaces, changing owners, modes or times of
    files, emptying a file without opening it for writing, and whatever the kernel learns in the
    future.

    Raises:
      OSError: the kernel refuses the filter.
    """
    if platform.machine() not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"sandbox: system calls of {platform.machine()} are not known")
    program = _program()
    buffer = ctypes.create_string_buffer(b"".join(program))
    header = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.c_char_p(header), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "sandbox: the kernel refuses a seccomp filter")


@functools.cache
def _program() -> list[bytes]:
    architecture, column = _ARCHITECTURES[platform.machine()]
    numbers = [row.split()[1 + column] for row in ALLOWED.replace("\n", " ").split(",")]
    program = [
        _line(_LOAD, _ARCHITECTURE),
        _line(_EQUAL, architecture, 1, 0),
        _line(_RETURN, _KILL),
        _line(_LOAD, _NUMBER),
    ]
    for number in numbers:
        if number != "-":
            program += [_line(_EQUAL, int(number), 0, 1), _line(_RETURN, _ALLOW)]
    refused = _line(_RETURN, _ERROR | errno.EPERM)
    allowed = _line(_RETURN, _ALLOW)
    blocks = (
        (_CLONE, _FIRST, [_line(_BITS, _CLONE_THREAD, 1, 0), refused, allowed]),
        (
            _FCNTL,
            _SECOND,
            [part for c in _FCNTL_REFUSED for part in (_line(_EQUAL, c, 0, 1), refused)]
            + [allowed],
        ),
        (_PRLIMIT, _FIRST, [_line(_EQUAL, 0, 1, 0), refused, allowed]),
        (_IOCTL, _FIRST, [_line(_RETURN, _ERROR | errno.ENOTTY)]),  # Python then uses fcntl
        (_OPEN, _SECOND, _opening()),
        (_OPENAT, _THIRD, _opening()),
    )
    for special, argument, block in blocks:
        if special[column] == _NONE:
            continue
        program += [
            _line(_EQUAL, special[column], 0, len(block) + 1),
            _line(_LOAD, argument),
            *block,
        ]
    return [*program, _line(_RETURN, _ERROR | errno.ENOSYS)]


def _opening() -> list[bytes]:
    """What may be asked of a file, of the loaded flags of an open.

    Landlock decides by what the file is opened for, and emptying counts as such only from its third
    version; access mode 3 (neither reading nor writing) counts as nothing.
    """
    refused = _line(_RETURN, _ERROR | errno.EPERM)
    allowed = _line(_RETURN, _ALLOW)
    return [
        _line(_AND, _O_ACCMODE | _O_TRUNC),
        *(
            part
            for flags in (_O_ACCMODE, _O_ACCMODE | _O_TRUNC, _O_TRUNC)
            for part in (_line(_EQUAL, flags, 0, 1), refused)
        ),
        allowed,
    ]


def _line(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
