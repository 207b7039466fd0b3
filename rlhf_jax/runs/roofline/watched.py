"""A run's jitted functions, watched: compiled before they are called, waited for and timed."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Compiled(NamedTuple):
    """What compiling one program took, and what the program takes."""

    seconds: float
    """Tracing included; of reading, where the process keeps compiled programs."""
    temporary: int
    """Bytes beside arguments and results, per device."""
    peak: int
    """Bytes of arguments, results and temporaries, per device; a result that takes the place of a
    donated argument counts once."""


class Watched:
    """Calls a jitted function as it is called anyway, and remembers how long that took."""

    def __init__(self, function: Callable[..., Any]) -> None:
        """Remembers what to call.

        Args:
          function: jitted. Static arguments are strings or tuples of strings by keyword.
        """
        self.function = function
        self.compiled: dict[Any, Compiled] = {}
        self._seconds: list[float] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's result, once it is there."""
        shapes = _shapes(args, kwargs)
        if shapes not in self.compiled:
            # The call below finds this very program: nothing is compiled twice.
            self.compiled[shapes] = _compile(self.function, args, kwargs)
        start = time.perf_counter()
        result = jax.block_until_ready(self.function(*args, **kwargs))
        self._seconds.append(time.perf_counter() - start)
        return result

    @property
    def compile_seconds(self) -> float:
        """Of all shapes that came until now."""
        return sum(each.seconds for each in self.compiled.values())

    def take(self) -> list[float]:
        """Seconds of every call since this was asked last."""
        taken = self._seconds
        self._seconds = []
        return taken


def _compile(function: Any, args: Any, kwargs: Any) -> Compiled:
    start = time.perf_counter()
    compiled = function.lower(*args, **kwargs).compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    temporary = int(memory.temp_size_in_bytes)
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Compiled(seconds, temporary, int(held) + temporary)


def _shapes(args: Any, kwargs: Any) -> Any:
    """What a program is compiled for: structure, shapes and dtypes; strings are static."""
    leaves, structure = jax.tree.flatten((args, kwargs))
    return structure, tuple(
        leaf if isinstance(leaf, str) else (np.shape(leaf), jax.dtypes.result_type(leaf))
        for leaf in leaves
    )
