"""Work on pieces of data in processes of their own; one that dies ends the work with an error.

Every worker has a pipe of its own, of which this process keeps one end only: the death of a worker
is the end of its pipe, to a reader and to a writer alike, whatever was on its way. Pools of the
standard library share their pipes between workers, and keep ends of them here: to write to, or read
from, one that was killed can then wait for ever.
"""

import multiprocessing
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, NamedTuple


class WorkerDiedError(Exception):
    """A worker ended by itself; the message says how."""


class _Raised(NamedTuple):
    """In place of a result: what `work` raised."""

    error: Exception


class _Worker:
    def __init__(self, context: SpawnContext, work: Callable, start: Callable) -> None:
        self.pipe, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=_serve, args=(theirs, work, start), daemon=True
        )
        self.place = -1
        """Of the item that it works on."""
        try:
            self.process.start()
        finally:
            theirs.close()

    def send(self, message: bytes) -> None:
        try:
            self.pipe.send_bytes(message)
        except OSError:
            raise WorkerDiedError(self._how_it_ended()) from None

    def receive(self) -> Any:
        try:
            message = self.pipe.recv_bytes()
        except (EOFError, OSError):
            raise WorkerDiedError(self._how_it_ended()) from None
        return pickle.loads(message)

    def _how_it_ended(self) -> str:
        self.process.join(1.0)
        code = self.process.exitcode
        if code is None:
            return "its pipe is closed"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def end(self) -> None:
        if self.process.pid is not None:
            self.process.kill()
            self.process.join()
        self.pipe.close()


def map_in_processes(
    work: Callable[[Any], Any],
    items: Sequence[Any],
    count: int,
    *,
    start: Callable[..., None],
    setup: tuple,
) -> Iterator[Any]:
    """`map(work, items)` in processes of their own, in the order of the items.

    Args:
      work: a function that can be imported.
      items: any number; each can be pickled.
      count: number of processes.
      start: called once in each process, with `setup`.
      setup: can be pickled.

    Yields:
      `work(item)` for each item.

    Raises:
      WorkerDiedError: a process ended by itself.
      Exception: what `work` raised, with the worker's traceback as a note.
    """
    # spawn, not fork: forking a process in which JAX has threads can deadlock
    context = multiprocessing.get_context("spawn")
    workers: list[_Worker] = []
    results: dict[int, Any] = {}
    waiting = iter(enumerate(items))
    try:
        for _ in range(count):
            workers.append(_Worker(context, work, start))
        # Through the worker's pipe, not as an argument of the process: what start() writes waits
        # for ever where it is large and the process ends before it has read it.
        message = pickle.dumps(setup, protocol=pickle.HIGHEST_PROTOCOL)
        for worker in workers:
            worker.send(message)
        busy = [worker for worker in workers if _hand_out(worker, waiting)]
        for place in range(len(items)):
            while place not in results:
                ready = connection.wait([worker.pipe for worker in busy])
                for worker in [worker for worker in busy if worker.pipe in ready]:
                    result = worker.receive()
                    if isinstance(result, _Raised):
                        raise result.error
                    results[worker.place] = result
                    if not _hand_out(worker, waiting):
                        busy.remove(worker)
            yield results.pop(place)
    finally:
        for worker in workers:
            worker.end()


def _hand_out(worker: _Worker, waiting: Iterator[tuple[int, Any]]) -> bool:
    """Whether there was another item."""
    for place, item in waiting:
        worker.place = place
        worker.send(pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL))
        return True
    return False


def _serve(
    pipe: "connection.Connection[Any, Any]", work: Callable[[Any], Any], start: Callable[..., None]
) -> None:
    """A worker, until the other end is closed."""
    # Ctrl-C reaches all processes of a terminal; the one that waits for this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        start(*pickle.loads(pipe.recv_bytes()))
        while True:
            pipe.send_bytes(_answer(work, pickle.loads(pipe.recv_bytes())))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _answer(work: Callable[[Any], Any], item: Any) -> bytes:
    try:
        return pickle.dumps(work(item), protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        error.add_note(f"in a worker process:\n{traceback.format_exc()}")
        try:
            message = pickle.dumps(_Raised(error))
            pickle.loads(message)
        except Exception:  # an exception of its own shape need not survive the way
            message = pickle.dumps(
                _Raised(RuntimeError("".join(traceback.format_exception(error))))
            )
        return message
