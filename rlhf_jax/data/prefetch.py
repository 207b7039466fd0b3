"""Batches made ahead, in a thread."""

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from rlhf_jax.data.loader import Loader, OfflineBatch

Prefetched: TypeAlias = tuple[int, np.ndarray, OfflineBatch]
"""(step, items, batch)"""


@contextlib.contextmanager
def prefetch(
    loader: Loader, start: int, stop: int | None = None, *, depth: int = 2
) -> Iterator[Iterator[Prefetched]]:
    """Batches from step `start` on, made by a background thread up to `depth` ahead.

        with prefetch(loader, step) as batches:
            step, indices, batch = next(batches)

    Args:
        loader: where from.
        start: first step.
        stop: one past the last step; None goes on for ever.
        depth: batches kept ready.

    Raises:
        Exception: whatever making a batch raised, when its turn comes. Leaving the context ends the
          thread.
    """
    ready: queue.Queue[Prefetched | BaseException | None] = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def put(item: Prefetched | BaseException | None) -> None:
        while not closed.is_set():
            try:
                return ready.put(item, timeout=0.05)
            except queue.Full:
                continue

    def work() -> None:
        step = start
        try:
            while not closed.is_set() and (stop is None or step < stop):
                put((step, loader.indices(step), loader.batch(step)))
                step += 1
            put(None)
        except BaseException as error:  # handed over to the consumer
            put(error)

    def consume() -> Iterator[Prefetched]:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=work, name="rlhf_jax-prefetch", daemon=True)
    thread.start()
    try:
        yield consume()
    finally:
        closed.set()
        thread.join(timeout=10)
