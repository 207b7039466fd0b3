"""Several processes make one comparison: each takes what none of the others is at.

What a process is at is a locked file in the comparison's folder; the system unlocks it when the
process ends, however it ends. Nobody waits for a single piece of work while there is another one.
"""

import contextlib
import fcntl
import logging
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from rlhf_jax.config import CompareConfig, StageConfig

_log = logging.getLogger(__name__)
FOLDER = "taken"
"""In the comparison's folder: a file for each piece of work."""
PAUSE = 2.0
"""Seconds between two looks at what others are at."""

Piece = TypeVar("Piece")
Found = TypeVar("Found")


class Taken(Exception):
    """Another process is at this piece of work."""


@contextlib.contextmanager
def taking(config: CompareConfig, stage: StageConfig, seed: int) -> Iterator[None]:
    """While this lasts, no other process makes this stage with this seed.

    Args:
      config: the comparison.
      stage: what is made.
      seed: what it is made with.

    Raises:
      Taken: another process is at it.
    """
    place = config.folder(stage, seed).relative_to(config.run_dir)
    path = pathlib.Path(config.run_dir) / FOLDER / "_".join(place.parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Taken from None
        yield


def share(pieces: Sequence[Piece], make: Callable[[Piece], Found]) -> list[Found]:
    """Makes all pieces of work; what another process is at is put off until that one is done.

    Args:
      pieces: in the order in which they are begun.
      make: makes a piece, or finds it made; raises `Taken`.

    Returns:
      What was found of each.
    """
    found: dict[int, Found] = {}
    left = list(range(len(pieces)))
    is_told = False
    while left:
        put_off = []
        for place in left:
            try:
                found[place] = make(pieces[place])
            except Taken:
                put_off.append(place)
        if len(put_off) == len(left):
            if not is_told:
                _log.info("waiting for %d that other processes are at", len(left))
            is_told = True
            time.sleep(PAUSE)
        left = put_off
    return [found[place] for place in range(len(pieces))]
