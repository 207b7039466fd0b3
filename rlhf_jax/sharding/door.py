"""How the processes of a run connect with the one that leads: a port of it, and a secret that all
have been told.

What is received is unpickled, which runs code: nothing is, before the other side has shown that it
knows the secret. It is not encrypted; the network must be one of trusted machines.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing import AuthenticationError, connection

from rlhf_jax.errors import LostError

Connection = connection.Connection
_CONNECT_SECONDS = 5.0
"""For a machine to answer."""
_PROOF_SECONDS = 20.0
"""For both sides to show that they know the secret. A scanner that says nothing is sent away."""


class Door:
    """Where the leader lets the others in.

    Args:
      key: shared secret; whoever does not know it is sent away.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._server = socket.create_server(("", 0), backlog=1024)
        self.port: int = int(self._server.getsockname()[1])
        self._come: dict[int, Connection] = {}
        self._arrived = threading.Condition()
        self._is_closed = False

    def admit(self, count: int, *, timeout: float) -> dict[int, Connection]:
        """The connections of all other processes of a run of `count`.

        Raises:
          LostError: some did not come in time; the line names them.
        """
        threading.Thread(target=self._accept, name="rlhf_jax-accept", daemon=True).start()
        with self._arrived:
            self._arrived.wait_for(lambda: len(self._come) == count - 1, timeout)
            missing = [process for process in range(1, count) if process not in self._come]
            self._is_closed = True
        # Wakes the thread that waits for more.
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        if missing:
            raise LostError(
                f"process {', '.join(map(str, missing))} of {count} has not reached process 0 "
                f"within {timeout:.0f} seconds, although it has started: let the machines of the "
                f"run connect with each other on any port (here {self.port})"
            )
        return self._come

    def _accept(self) -> None:
        while True:
            try:
                came, _ = self._server.accept()
            except OSError:  # closed
                return
            # One that says nothing must not keep the others waiting.
            held = Connection(came.detach())
            threading.Thread(target=self._let_in, args=(held,), daemon=True).start()

    def _let_in(self, held: Connection) -> None:
        """Keeps a connection whose other side knows the secret."""
        with _limited(held):
            try:
                connection.deliver_challenge(held, self._key)
                connection.answer_challenge(held, self._key)
                process: int | None = int(held.recv())
            # Somebody who does not know the key, or has gone.
            except (AuthenticationError, EOFError, OSError):
                process = None
        with self._arrived:
            if process is None or self._is_closed:
                held.close()
                return
            self._come[process] = held
            self._arrived.notify_all()


def enter(
    process: int, addresses: list[tuple[str, int]], key: bytes, *, timeout: float
) -> Connection:
    """The connection of a process to the leader.

    Args:
      process: number of this one.
      addresses: (host, port) by which the leader may be reached, the likeliest first.
      key: of the leader's `Door`.
      timeout: seconds to try.

    Raises:
      LostError: none of them can be reached.
    """
    until = time.monotonic() + timeout
    reason = ""
    while time.monotonic() < until:
        for address in addresses:
            try:
                return _enter_at(process, address, key)
            except (OSError, EOFError, AuthenticationError) as error:
                reason = f"{address[0]}:{address[1]}: {error or type(error).__name__}"
        time.sleep(0.5)
    raise LostError(
        f"process {process} cannot reach process 0 within {timeout:.0f} seconds ({reason})"
    )


def _enter_at(process: int, address: tuple[str, int], key: bytes) -> Connection:
    came = socket.create_connection(address, timeout=_CONNECT_SECONDS)
    came.settimeout(None)
    held = Connection(came.detach())
    try:
        with _limited(held):
            connection.answer_challenge(held, key)
            connection.deliver_challenge(held, key)
            held.send(process)
    except BaseException:
        held.close()
        raise
    return held


@contextlib.contextmanager
def _limited(held: Connection) -> Iterator[None]:
    """Ends a connection that takes longer than `_PROOF_SECONDS` here, as an error of what waits for
    it."""
    timer = threading.Timer(_PROOF_SECONDS, hang_up, (held,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        # One that has begun must not meet a closed connection, or another one under its number.
        timer.join()


def hang_up(held: Connection) -> None:
    """Ends a connection for the thread that waits for something from it, which then closes it."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(held.fileno())) as ended:
        ended.shutdown(socket.SHUT_RDWR)
