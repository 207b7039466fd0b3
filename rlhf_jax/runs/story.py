"""Telling how several runs go, one after the other: a heading for each, and how much is left."""

import contextlib
import logging
import time
from collections.abc import Iterator

from rlhf_jax.io import Part, shown_as

_log = logging.getLogger(__name__)
LINES = 5
"""About so many plain lines about the training steps of each run."""


class Story:
    """Headings of some runs, numbered.

    Args:
      total: runs there will be.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._number = 0
        self._seconds: list[float] = []

    @contextlib.contextmanager
    def chapter(self, name: str, title: str) -> Iterator[None]:
        """What follows is the next run.

        Args:
          name: in front of its bar.
          title: one line about it.

        Raises:
          KeyboardInterrupt: one that says nothing, now with the place at which it came.
        """
        self._number += 1
        place = f"{self._number} of {self._total}"
        _log.info("%s: %s%s", place, title, self._left())
        began = time.monotonic()
        try:
            with shown_as(Part(f"{place} {name}", LINES)):
                yield
        except KeyboardInterrupt as stopped:
            what = str(stopped) or "what was saved of it is kept"
            text = f"in {place} ({name}); {what}, and the same command goes on from there"
            raise KeyboardInterrupt(text) from None
        self._seconds.append(time.monotonic() - began)

    def _left(self) -> str:
        """` (about 4 min left)`, at the pace of the runs before; nothing is known of the first."""
        if not self._seconds:
            return ""
        pace = sum(self._seconds) / len(self._seconds)
        left = pace * (self._total - self._number + 1)
        return f" ({about(left)} left)"


def about(seconds: float) -> str:
    """`about 40 s`, `about 4 min`, `about 3 h`."""
    if seconds < 90:
        return f"about {max(round(seconds / 10), 1) * 10} s"
    if seconds < 90 * 60:
        return f"about {round(seconds / 60)} min"
    return f"about {round(seconds / 3600)} h"
