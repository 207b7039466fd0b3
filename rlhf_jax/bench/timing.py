"""Interleaved timing of several sides in one process."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from rlhf_jax.runs.roofline.timing import Timing, summarise

__all__ = ["Timing", "interleave", "summarise"]


def interleave(
    sides: Mapping[str, Callable[[], Any]], *, repeats: int, warmup: int = 1
) -> dict[str, Timing]:
    """Times every side once per round, in turn, so that a change of load meets all of them.

    Args:
        sides: name -> function of nothing; JAX results are waited for.
        repeats: timed rounds.
        warmup: untimed rounds before (compilation happens there).

    Returns:
        One `Timing` per side.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_number in range(warmup + repeats):
        for name, run in sides.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            if round_number >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: summarise(values) for name, values in seconds.items()}
