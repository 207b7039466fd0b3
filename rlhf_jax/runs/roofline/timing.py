"""Medians and ranges of repeated measurements."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Timing(NamedTuple):
    """Wall time of one side over the repeats, seconds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median * 1e3:9.1f} ms  ({self.low * 1e3:.1f} .. {self.high * 1e3:.1f})"


def summarise(seconds: Sequence[float]) -> Timing:
    """Median and full range."""
    return Timing(statistics.median(seconds), min(seconds), max(seconds))
