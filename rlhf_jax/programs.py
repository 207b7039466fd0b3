"""Names of the few large programs of a run, so that whoever listens to the compiler can say which
one it compiles, and for what shape."""

import contextvars
import functools
from collections.abc import Callable
from typing import Any, NamedTuple


class Call(NamedTuple):
    """A named program while it is called."""

    name: str
    function: str
    """What the compiler calls it."""
    describe: Callable[[], str]
    """The shape that it is called with, in words."""


_call: contextvars.ContextVar[Call | None] = contextvars.ContextVar("call", default=None)


def named(
    name: str, program: Callable[..., Any], describe: Callable[..., str]
) -> Callable[..., Any]:
    """A jitted function that says what it is while it is called.

    Args:
      name: of a program of a run: "update", "score", "decode", ...
      program: from `jax.jit`.
      describe: its arguments -> their shape in words; asked only when something is compiled.

    Returns:
      A function that calls the program, and lowers it where the program can.
    """

    @functools.wraps(program)
    def run(*args: Any, **kwargs: Any) -> Any:
        # A jitted function compiles in the thread that calls it, so the context tells whose it is.
        describing = functools.partial(describe, *args, **kwargs)
        token = _call.set(Call(name, program.__name__, describing))
        try:
            return program(*args, **kwargs)
        finally:
            _call.reset(token)

    if hasattr(program, "lower"):
        run.lower = program.lower  # type: ignore[attr-defined]
    return run


def called() -> Call | None:
    """The named program that this thread is calling; None: it calls none."""
    return _call.get()


def batch_shape(batch: Any) -> str:
    """`4 x 2 x 256 tokens, 96 scored, in rows of 1024`: what a program depends on of a batch."""
    text = times(*batch.tokens.shape) + " tokens"
    if batch.scored is not None:
        text += f", {batch.scored.shape[-1]} scored"
    if batch.room is not None:
        text += f", packed in {times(batch.room.rows, batch.room.width)}"
    return text


def last_batch(*arguments: Any, **named: Any) -> str:
    """The `batch_shape` of the last argument."""
    return batch_shape([*arguments, *named.values()][-1])


def times(*sizes: int) -> str:
    """`4 x 2 x 256`."""
    return " x ".join(str(size) for size in sizes)
