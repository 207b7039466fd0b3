"""The few large programs of a run: what the compiler is told about them, and their names, so that
whoever listens to it can say which one it compiles, and for what shape."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from rlhf_jax.target import platform

_OPTIONS: dict[str, dict[str, str]] = {
    "tpu": {
        # Kernels are divided over `fsdp` in the dimension that a product sums over. For groups of
        # 16 chips the compiler then replaces gather and product by a ring of products of slices,
        # each too small to fill the chip: compiled for 8 x 8 v6e, the update of a model with 7B
        # parameters on fsdp=16, tensor=4 has 51,748 permutes and an estimated 3.27 s of compute
        # with rings, and 112 and 1.70 s without. Products whose operands are smaller than this
        # many MiB are no rings: none is larger.
        "xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000",
    }
}


def compiler_options(target: str | None = None) -> dict[str, str]:
    """What the programs of a run are compiled with: ``jax.jit(step, compiler_options=...)``.

    Args:
      target: "tpu", "gpu" or "cpu"; None: the platform that programs are made for
        (`rlhf_jax.target`), else that of the default devices.

    Returns:
      Name -> value; nothing where the compiler's own defaults are best.
    """
    return dict(_OPTIONS.get(platform() if target is None else target, {}))


def jitted(function: Callable[..., Any], **options: Any) -> Any:
    """`jax.jit` with the `compiler_options` of the default devices.

    Args:
      function: a whole program: inside another jitted function the options of the outer one hold.
      **options: of `jax.jit`.
    """
    return jax.jit(function, compiler_options=compiler_options(), **options)


class Call(NamedTuple):
    """A named program while it is called."""

    name: str
    function: str
    """What the compiler calls it."""
    describe: Callable[[], str]
    """The shape that it is called with, in words."""


_call: contextvars.ContextVar[Call | None] = contextvars.ContextVar("call", default=None)


Prepare = Callable[[str | None], None]
"""Hears that a program is called in a shape for the first time, as `update (4 x 256 tokens)`; None:
the call is over."""
_listeners: list[Prepare] = []


@contextlib.contextmanager
def preparing(listener: Prepare) -> Iterator[None]:
    """Before a named program is traced and compiled, which may take minutes, this one hears of it;
    the innermost listener alone.

    Args:
      listener: called in the thread that calls the program.
    """
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


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

    shapes: set[str] = set()

    @functools.wraps(program)
    def run(*args: Any, **kwargs: Any) -> Any:
        # A jitted function compiles in the thread that calls it, so the context tells whose it is.
        describing = functools.partial(describe, *args, **kwargs)
        token = _call.set(Call(name, program.__name__, describing))
        shape = describing()
        is_new = shape not in shapes
        shapes.add(shape)
        try:
            if is_new and _listeners:
                _listeners[-1](f"{name} ({shape})")
            return program(*args, **kwargs)
        finally:
            _call.reset(token)
            if is_new and _listeners:
                _listeners[-1](None)

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
