"""Messages between the processes of a run, beside the accelerators: a star around the leader.

A collective on devices cannot carry an error, cannot say who is missing and cannot be given up; a
connection can. So decisions, grades and errors travel here, and whoever is gone is named: a process
that is killed closes its connection at once, one that hangs stops sending beats.

`Channel.exchange` is what a run calls. A thread for each connection receives, one more sends beats.
Messages are tuples that begin with their kind: `part` (a member's of an exchange), `answer` (from
the leader: everybody's values, or what failed), `beat`, `failed` (why a process ends, relayed to
all), `bye`.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rlhf_jax.errors import LostError, PeerError
from rlhf_jax.sharding.door import Connection, hang_up

BEAT = 3.0
"""Seconds between two beats."""
SILENCE = 25.0
"""Seconds without a beat after which a process counts as lost."""
LEADER = 0
LOST = 6
"""Exit code of a process that has lost another one."""


class Failure(NamedTuple):
    """Why a run of several processes ends."""

    process: int
    """In which it began."""
    text: str
    """One line."""
    exit_code: int


class Part(NamedTuple):
    """What a process brings to an exchange."""

    name: str
    """Where it is."""
    value: Any
    failure: Failure | None
    """It brings nothing, because it has failed."""


Answer = list[Any] | Failure
"""Everybody's values, or the first failure."""


class Channel:
    """One process's end of the messages between all.

    Args:
      process: number of this one; 0 leads.
      count: processes of the run.
      connections: of the leader those to all others, of the others that to the leader.
      on_failure: called once, in a thread, when another process is lost or has failed.
      beat: seconds between two beats.
      silence: seconds without one after which a process counts as lost.
    """

    def __init__(
        self,
        process: int,
        count: int,
        connections: Mapping[int, Connection],
        *,
        on_failure: Callable[[Failure], None] = lambda failure: None,
        beat: float = BEAT,
        silence: float = SILENCE,
    ) -> None:
        self.process = process
        self.count = count
        self.failure: Failure | None = None
        self._connections = dict(connections)
        self._on_failure = on_failure
        self._beat = beat
        self._silence = silence
        self._changed = threading.Condition()
        self._sending = {peer: threading.Lock() for peer in connections}
        # Beats that were sent since the last message of each: not seconds, so that a process that
        # was itself stopped for a while does not take the others for silent.
        self._unanswered = dict.fromkeys(connections, 0)
        self._parted: set[int] = set()
        """Have said goodbye, or are gone."""
        self._gone: set[int] = set()
        self._is_kept = False
        self._number = 0
        self._parts: dict[int, dict[int, Part]] = {}
        self._answers: dict[int, Answer] = {}
        self._closed = threading.Event()
        for peer in connections:
            self._start(self._receive, peer)
        self._start(self._send_beats)

    def exchange(
        self, name: str, value: Any, *, timeout: float | None, failure: Failure | None = None
    ) -> list[Any]:
        """Everybody's value, in the order of the processes. All must call it in the same order.

        Args:
          name: of this exchange; a process that is at another one is an error.
          value: what can be pickled.
          timeout: seconds to wait for the others; None: as long as they show that they are there.
          failure: in place of a value. All that come to this exchange, whatever its name, then
            raise it.

        Raises:
          PeerError: some process has failed.
          LostError: a process is lost, has ended, is at another exchange, or does not come; with
            the text of `failure` when it is this one that failed. Or the run has ended here.
        """
        if self._closed.is_set():
            raise LostError(
                f"{name!r}: the run of this process and the others has ended; start a new one by "
                "starting all of them again",
                LOST,
            )
        number = self._number
        self._number += 1
        part = Part(name, value, failure)
        if self.process == LEADER:
            answer = self._lead(number, part, timeout)
        else:
            self._send(LEADER, ("part", number, part))
            answer = self._follow(number, part, timeout)
        if isinstance(answer, Failure):
            raise PeerError(answer.text, answer.exit_code)
        return answer

    def fail(self, text: str, exit_code: int) -> None:
        """Tells all others that this process ends, and why."""
        message = ("failed", Failure(self.process, text, exit_code))
        for peer in self._connections:
            self._send(peer, message)

    def failed_within(self, timeout: float) -> Failure | None:
        """Why the run ends, if it does within some seconds."""
        self._wait(lambda: False, timeout)
        return self.failure

    def close(self, *, timeout: float, has_failed: bool = False) -> None:
        """Says goodbye. The leader stays until the others have, since they talk through it.

        Args:
          timeout: seconds that it stays at most.
          has_failed: the process ends. Then its connections stay open as long as it does, and the
            leader waits for the end of the others: JAX's service ends with it, and would take them
            along before they have said why.
        """
        self._is_kept = has_failed
        for peer in self._connections:
            self._send(peer, ("bye",))
        lost = set() if self.failure is None else {self.failure.process}
        if self.process == LEADER:
            with self._changed:
                others = self._connections.keys() - lost
                left = self._gone if has_failed else self._parted
                self._changed.wait_for(lambda: left >= others, timeout)
        self._closed.set()
        for held in self._connections.values() if not has_failed else ():
            hang_up(held)

    def _follow(self, number: int, own: Part, timeout: float | None) -> Answer:
        patience = timeout
        if timeout is not None and own.failure is None:
            # The leader knows who is missing: it gives up first, and says so.
            patience = 1.1 * timeout + self._silence
        if not self._wait(lambda: number in self._answers, patience):
            self._give_up(own)
            self._fail(
                LEADER,
                f"process 0 of {self.count} gave no answer at {own.name!r} within "
                f"{patience:.0f} seconds (distributed.exchange_timeout)",
            )
        self._raise_failure()
        return self._answers.pop(number)

    def _lead(self, number: int, own: Part, timeout: float | None) -> Answer:
        with self._changed:
            parts = self._parts.setdefault(number, {})
            parts[self.process] = own
        if not self._wait(lambda: len(parts) == self.count, timeout):
            self._give_up(own)
            missing = ", ".join(str(peer) for peer in range(self.count) if peer not in parts)
            self._fail(
                next(peer for peer in range(self.count) if peer not in parts),
                f"process {missing} of {self.count} has not come to {own.name!r} within "
                f"{timeout:.0f} seconds (distributed.exchange_timeout)",
            )
        self._raise_failure()
        ordered = [parts[peer] for peer in range(self.count)]
        failures = [part.failure for part in ordered if part.failure is not None]
        if not failures:
            self._check_place(ordered)
        del self._parts[number]
        answer: Answer = failures[0] if failures else [part.value for part in ordered]
        for peer in self._connections:
            self._send(peer, ("answer", number, answer))
        return answer

    def _give_up(self, own: Part) -> None:
        """This process has failed, and the others did not come to hear of it: they are told, and
        end where they are. So it is no `PeerError`, after which all would save together."""
        if own.failure is not None:
            self.fail(own.failure.text, own.failure.exit_code)
            raise LostError(own.failure.text, own.failure.exit_code)

    def _check_place(self, parts: list[Part]) -> None:
        """All must be at the same exchange."""
        name = parts[LEADER].name
        for peer, part in enumerate(parts):
            if part.name != name:
                self._fail(
                    peer, f"process {peer} is at {part.name!r} where process 0 is at {name!r}"
                )
        self._raise_failure()

    def _wait(self, arrived: Callable[[], bool], timeout: float | None) -> bool:
        """Whether something arrived, or the run ended, in time."""
        with self._changed:
            return self._changed.wait_for(lambda: arrived() or self.failure is not None, timeout)

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise LostError(self.failure.text, self.failure.exit_code)

    def _receive(self, peer: int) -> None:
        try:
            while True:
                kind, *content = self._connections[peer].recv()
                with self._changed:
                    self._unanswered[peer] = 0
                    if kind == "part":
                        number, part = content
                        self._parts.setdefault(number, {})[peer] = part
                    elif kind == "answer":
                        number, answer = content
                        self._answers[number] = answer
                    elif kind == "bye":
                        self._parted.add(peer)
                    self._changed.notify_all()
                if kind == "failed":
                    self._note(*content, told_by=peer)
        except (EOFError, OSError):
            self._end_of(peer)
        except Exception as error:  # unpickling runs code of whatever was sent
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            text = f"process {self.process} cannot read a message of process {peer} ({reason})"
            self.fail(text, LOST)
            self._fail(self.process, text)
        # Here and nowhere else: it must not be closed while something is read from it, nor before
        # this process has said goodbye too.
        self._closed.wait()
        if not self._is_kept:
            self._connections[peer].close()

    def _end_of(self, peer: int) -> None:
        """A connection has ended, which only a goodbye announces."""
        with self._changed:
            is_announced = peer in self._parted
            self._parted.add(peer)
            self._gone.add(peer)
            self._changed.notify_all()
        if not is_announced and not self._closed.is_set():
            self._fail(peer, f"process {peer} of {self.count} has ended (killed, or out of memory)")

    def _send_beats(self) -> None:
        while not self._closed.wait(self._beat):
            for peer in self._connections.keys() - self._parted:
                # A connection that is busy sending needs no beat, and must not hold up the others.
                if self._sending[peer].acquire(blocking=False):
                    self._sending[peer].release()
                    self._send(peer, ("beat",))
                self._unanswered[peer] += 1
                if self._unanswered[peer] * self._beat > self._silence:
                    self._fail(
                        peer,
                        f"process {peer} of {self.count} has been silent for {self._silence:.0f} "
                        "seconds (it hangs, or its machine is gone)",
                    )

    def _send(self, peer: int, message: tuple[Any, ...]) -> None:
        try:
            with self._sending[peer]:
                self._connections[peer].send(message)
        except OSError:
            # The thread that receives from it notices the same, and says what it means.
            return

    def _fail(self, process: int, text: str) -> None:
        self._note(Failure(process, text, LOST))

    def _note(self, failure: Failure, *, told_by: int | None = None) -> None:
        """Keeps the first failure, wakes whoever waits, and tells those who do not know it."""
        with self._changed:
            if self.failure is not None:
                return
            self.failure = failure
            self._changed.notify_all()
        if self.process == LEADER:
            for peer in self._connections.keys() - self._parted - {told_by}:
                self._send(peer, ("failed", failure))
        # In a thread of its own: it may end the process, and nothing here must wait for it.
        self._start(self._on_failure, failure)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        threading.Thread(
            target=target, args=arguments, name=f"rlhf_jax-{target.__name__}", daemon=True
        ).start()
