"""The processes of a run: who leads, what all know, how they begin and end together.

Every process runs the same program and takes the same decisions, because each decision is taken on
numbers that all have: `exchange` gives everybody's value to everybody, `gathered` also what failed,
`from_leader` what only one may find out. A process alone gets its own value back, at no cost.

`join` is called once, before the first device is touched; `ending_together` surrounds a run, so
that a process that fails takes the others with it. A process that is lost ends the others: at the
next exchange, by the error of a collective that lost its peer, or after `GRACE` seconds by force.
"""

import atexit
import contextlib
import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax

from rlhf_jax.errors import LostError, PeerError, exit_code
from rlhf_jax.sharding.channel import LEADER, LOST, Channel, Failure
from rlhf_jax.sharding.cluster import DistributedConfig
from rlhf_jax.sharding.meeting import leave_at_once, machine, meet
from rlhf_jax.target import agree_on_memory, own_memory

_log = logging.getLogger(__name__)
_package_log = logging.getLogger("rlhf_jax")
ValueT = TypeVar("ValueT")
GRACE = 15.0
"""Seconds that a process has to end in order, once another one is lost."""
_SHOWN = 3.0
"""Of these, before it says why it ends: most then have ended, and have said so themselves."""
_FAILING = 60.0
"""Seconds that a process which has failed between collectives waits for the others to come and hear
of it: they may be in a collective that it left alone, and are then ended."""


class _Joined(NamedTuple):
    """What a process of several has."""

    channel: Channel
    exchange_timeout: float
    left: threading.Event
    """The run has ended here, in order or not."""
    codes: list[int]
    """Exit code, once it has failed."""
    said: set[str]
    """Errors of other processes that the log has shown."""
    machines: list[str]
    """Of each process, a name of the machine that it runs on."""


_joined: _Joined | None = None


def join(config: DistributedConfig) -> None:
    """Takes this process into its run, if it is one of several; the first call counts.

    Raises:
      ValueError: the configuration says half of what is needed.
      LostError: some process did not start in time.
    """
    global _joined
    if _joined is not None:
        return
    left = threading.Event()
    said: set[str] = set()
    try:
        channel = meet(config, lambda failure: _end(failure, left, said))
    except LostError as error:
        # JAX would wait for those that are missing.
        atexit.register(leave_at_once, error.exit_code)
        raise
    if channel is None:
        return
    patience = float(config.exchange_timeout)
    own = (machine(), own_memory(jax.local_devices()[0]))
    found = channel.exchange("machines", own, timeout=patience)
    agree_on_memory(min(memory for _, memory in found))
    machines = [name for name, _ in found]
    _joined = _Joined(channel, patience, left, [], said, machines)
    atexit.register(_leave)
    if channel.process != LEADER:
        # What all would say is said once.
        _package_log.setLevel(logging.WARNING)
    _log.info("%d processes with %d devices", channel.count, jax.device_count())


def count() -> int:
    """Processes of the run."""
    return 1 if _joined is None else _joined.channel.count


def number() -> int:
    """Of this process, from 0: for names and messages. Rows go by shardings."""
    return LEADER if _joined is None else _joined.channel.process


def machine_of(process: int) -> str:
    """A name of the machine that a process runs on.

    Args:
      process: as JAX numbers them. Where this one is alone, those of a topology that is compiled
        for have a machine each.
    """
    return str(process) if _joined is None else _joined.machines[process]


def is_leader() -> bool:
    """Whether this process writes what is written once."""
    return number() == LEADER


def exchange(name: str, value: ValueT) -> list[ValueT]:
    """Everybody's value, in the order of the processes. All must come to it in the same order.

    Args:
      name: where in the run this is.
      value: what can be pickled.

    Raises:
      LostError: a process is lost, or does not come.
    """
    if _joined is None:
        return [value]
    return _joined.channel.exchange(name, value, timeout=_joined.exchange_timeout)


def barrier(name: str) -> None:
    """Returns when all processes have come, however long that takes: one that works shows that it
    is there, and is waited for."""
    if _joined is not None:
        _joined.channel.exchange(name, None, timeout=None)


def gathered(name: str, work: Callable[[], ValueT]) -> list[ValueT]:
    """What each process found, or in every process the first error: nobody waits for one who has
    failed.

    Args:
      name: where in the run this is.
      work: of this process; its result can be pickled.

    Raises:
      PeerError: it failed somewhere. Alone a process raises its own error.
    """
    if _joined is None:
        return [work()]
    with sharing_errors(timeout=_joined.exchange_timeout):
        own = work()
    return exchange(name, own)


def from_leader(name: str, make: Callable[[], ValueT]) -> ValueT:
    """What the leader finds out, such as what lies in a folder that it alone changes. The others
    wait as long as it works.

    Args:
      name: where in the run this is.
      make: called by the leader; its result can be pickled.

    Raises:
      PeerError: as `gathered`.
    """
    if _joined is None:
        return make()
    found: Any = None
    with sharing_errors(timeout=None):
        found = make() if is_leader() else found
    values: list[Any] = _joined.channel.exchange(name, found, timeout=None)
    return values[LEADER]


def leader_first(name: str, make: Callable[[], ValueT]) -> ValueT:
    """Everybody's own result, of which the leader's comes first: what it writes to a cache the
    others read. Each waits as long as others work.

    Args:
      name: where in the run this is.
      make: called by each.

    Raises:
      PeerError: as `gathered`.
    """
    if _joined is None:
        return make()
    found: Any = None
    for turn in (is_leader(), not is_leader()):
        with sharing_errors(timeout=None):
            found = make() if turn else found
        barrier(name)
    return found


@contextlib.contextmanager
def sharing_errors(*, timeout: float | None = _FAILING) -> Iterator[None]:
    """An error in here is raised in all processes, at the next exchange that they come to; it costs
    nothing while there is none.

    Args:
      timeout: seconds in which the others come to an exchange; None: as long as they show that they
        are there, for work without collectives.

    Raises:
      PeerError: in place of the error, where there are several processes.
      LostError: with its text, when the others do not come. They are ended.
    """
    try:
        yield
    except (LostError, PeerError):
        raise
    except Exception as error:  # whatever it is, the others must hear of it
        if _joined is None:
            raise
        failure = _joined.channel.failure or _awaited(error, _joined)
        if failure is not None:
            raise LostError(failure.text, failure.exit_code) from error
        if exit_code(error) is None:
            # A fault of ours, or of somebody's function: the line alone would not help to find it.
            _log.error("%s", "".join(traceback.format_exception(error)).rstrip())
        failure = _failure_of(error)
        place = "" if is_leader() else f"process {number()}: "
        failure = failure._replace(text=f"{place}{failure.text}")
        try:
            _joined.channel.exchange("an error", None, timeout=timeout, failure=failure)
        except (LostError, PeerError) as shared:
            raise shared from error


def own_part(total: int) -> range:
    """Numbers of the things that this process does, of `total` that any may do. Where the results
    go is said by these numbers, so it does not matter which process does which."""
    return range(number(), total, count())


def end_all(error: Exception) -> None:
    """Tells all others that this process ends, before it tidies up, which may need them; then it
    has `GRACE` seconds itself. Nothing where it is alone.

    Args:
      error: why; to be raised.
    """
    if _joined is None:
        return
    failure = _failure_of(error)
    _joined.channel.fail(failure.text, failure.exit_code)
    arguments = (failure, _joined.left, _joined.said)
    threading.Thread(target=_end, args=arguments, daemon=True).start()


def is_said(error: Exception) -> bool:
    """Whether the log, or the leader, has shown this error already."""
    if _joined is None:
        return False
    return str(error) in _joined.said or (isinstance(error, PeerError) and not is_leader())


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Surrounds a run: an error that ends it here ends it in all processes, with the same line.

    Raises:
      LostError: in place of the error that a lost process causes here.
    """
    if _joined is None:
        yield
        return
    state = _joined
    try:
        yield
    except BaseException as error:
        own = _failure_of(error)
        failure = state.channel.failure or _awaited(error, state)
        if failure is None:
            state.channel.fail(own.text, own.exit_code)
        cause = _cause(error, failure)
        state.codes.append(own.exit_code if cause is None else cause.exit_code)
        state.left.set()
        state.channel.close(timeout=GRACE, has_failed=True)
        if cause is None:
            raise
        raise LostError(cause.text, cause.exit_code) from error


def _failure_of(error: BaseException) -> Failure:
    if isinstance(error, KeyboardInterrupt):
        return Failure(number(), "interrupted", 130)
    text = " ".join(str(error).split())
    code = exit_code(error)
    if code is None:
        text = f"{type(error).__name__}: {text}"
    return Failure(number(), text, 1 if code is None else code)


def _awaited(error: BaseException, state: _Joined) -> Failure | None:
    """The loss of a process that an error of a collective tells of, a moment before it is known."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return state.channel.failed_within(GRACE / 2)
    return None


def _cause(error: BaseException, failure: Failure | None) -> Failure | None:
    """The failure elsewhere that an error here comes of; None: it is an error of its own."""
    if failure is None or isinstance(error, LostError | PeerError):
        return None
    is_caused = failure.exit_code == LOST or isinstance(error, jax.errors.JaxRuntimeError)
    return failure if is_caused else None


def _end(failure: Failure, left: threading.Event, said: set[str]) -> None:
    """Ends this process when another one has ended, unless it does so by itself."""
    # JAX may end a process that has lost its coordinator within moments: what happened is said
    # before. What another process tells, this one mostly finds out by itself.
    if failure.exit_code != LOST and left.wait(_SHOWN):
        return
    said.add(failure.text)
    _log.error("error: %s", failure.text)
    if failure.exit_code == LOST and failure.process == LEADER:
        # JAX's service is gone with it, and ends this process by a signal in a moment.
        leave_at_once(LOST)
    if left.wait(GRACE):
        return
    _log.error("process %d is given up: it waits for a process that has ended", number())
    leave_at_once(failure.exit_code)


def _leave() -> None:
    """At the end of the process: all leave together, so that none takes another for lost."""
    if _joined is None:
        return
    state = _joined
    if state.codes or state.channel.failure is not None:
        # JAX would wait for the others, and then end the process by a signal.
        code = state.codes[0] if state.codes else LOST
        leave_at_once(code)
    try:
        barrier("end")
    except LostError as error:
        _log.error("error: %s", error)
        leave_at_once(error.exit_code)
    state.left.set()
    state.channel.close(timeout=GRACE)
    jax.distributed.shutdown()
