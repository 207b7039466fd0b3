"""The connection to the process that forks sandboxed ones."""

import atexit
import fcntl
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence

PACKAGES = ("numpy",)
"""What strangers' code may import beside the standard library, where it is installed."""
_HERE = os.path.dirname(os.path.abspath(__file__))
BOOT = (
    "import sys, types\n"
    "for name, path in zip(('rlhf_jax', 'rlhf_jax.rewards', 'rlhf_jax.rewards.sandbox'), "
    "sys.argv[1:]):\n"
    "    sys.modules[name] = types.ModuleType(name); sys.modules[name].__path__ = [path]\n"
    "from rlhf_jax.rewards.sandbox.server import main; main()"
)
"""Imports the server without the packages around it, which need JAX and are not for strangers."""
START_SECONDS = 60.0
"""For the interpreter to start and import; candidates' limits start later."""


class Server:
    """The process that forks sandboxed ones.

    Args:
      packages: names of packages that strangers' code may import.
      readable: paths that it may read, besides what it needs.

    Raises:
      RuntimeError: it does not start.
    """

    def __init__(self, packages: Sequence[str], readable: Sequence[str] = ()) -> None:
        found = [package for name in packages if (package := _package(name)) is not None]
        folders = [os.path.dirname(os.path.dirname(_HERE)), os.path.dirname(_HERE), _HERE]
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            more = [
                str(theirs.fileno()),
                json.dumps({"packages": found, "readable": list(readable)}),
            ]
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", BOOT, *folders, *more],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")},
                cwd="/",
                pass_fds=[theirs.fileno()],
            )
        self.control.settimeout(START_SECONDS)
        try:
            started = self.control.recv(1 << 16)
        except OSError:
            started = b""
        if not started:
            self.close()
            raise RuntimeError("the sandbox did not start")
        self.packages = tuple(json.loads(started)["packages"])

    def close(self) -> None:
        """Ends the process and all that it has forked."""
        self.control.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """Leaves the process to the one that this process was forked from."""
        self.control.close()
        self._process.returncode = 0


_lock = threading.Lock()
_servers: list[Server] = []
"""At most one, of this process."""


def _forget() -> None:
    global _lock
    _lock = threading.Lock()  # it may have been held by a thread that is not here
    while _servers:
        _servers.pop().forget()


def close() -> None:
    """Ends this process's server, if there is one; the next job starts another."""
    while _servers:
        _servers.pop().close()


os.register_at_fork(after_in_child=_forget)
atexit.register(close)


def send(message: bytes, descriptors: list[int], server: Server | None) -> None:
    """Gives a server an order and the files that it needs.

    Args:
      message: the order.
      descriptors: of the files; they may be closed afterwards.
      server: None: this process's, which is started when there is none.

    Raises:
      RuntimeError: it does not start, or has ended.
    """
    with _lock:
        if server is None:
            if not _servers:
                _servers.append(Server(PACKAGES))
            server = _servers[0]
        try:
            socket.send_fds(server.control, [message], descriptors)
        except OSError as error:
            if server in _servers:
                _servers.remove(server)
                server.close()
            raise RuntimeError(
                f"the process that starts sandboxed ones has ended: {error}"
            ) from None


def memory_file(content: bytes) -> int:
    """A file in memory that nobody can change any more, to be read from its start."""
    descriptor = os.memfd_create("input", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(
        descriptor,
        fcntl.F_ADD_SEALS,
        fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL,
    )
    return descriptor


def output_file() -> int:
    """A file in memory that can be added to."""
    descriptor = os.memfd_create("output", os.MFD_CLOEXEC)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
    return descriptor


def _package(name: str) -> tuple[str, str, list[str]] | None:
    """Name, its folder, and what has to be read of it; None when it is not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    place = os.path.realpath(next(iter(spec.submodule_search_locations)))
    paths = [path for path in (place, f"{place}.libs") if os.path.isdir(path)]
    return name, os.path.dirname(place), paths
