"""What programs are made for: the devices at hand, or machines that are compiled for without them.

A few choices depend on the platform (which attention, how many layers are unrolled, how wide a
chunk of the vocabulary is). They ask here, so that `rlhf-jax plan` on a laptop takes the choices of
the pod that it plans for.
"""

import contextlib
import contextvars
import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import jax


class Target(NamedTuple):
    """A machine that need not be there."""

    platform: str
    """As `jax.default_backend` names it: "cpu", "gpu" or "tpu"."""
    memory: int | None = None
    """Bytes of one device; None: ask the device."""


_target: contextvars.ContextVar[Target | None] = contextvars.ContextVar("target", default=None)

_agreed: float | None = None


def platform() -> str:
    """The platform that programs are made for: "cpu", "gpu" or "tpu"."""
    target = _target.get()
    return jax.default_backend() if target is None else target.platform


def is_at_hand() -> bool:
    """Whether programs are made for the devices of this process, which can be asked."""
    return _target.get() is None


def target_memory() -> int | None:
    """Bytes of a device that is compiled for; None: the devices at hand can be asked."""
    target = _target.get()
    return None if target is None else target.memory


def own_memory(device: jax.Device) -> float:
    """Bytes of a device of this process, those of CPUs shared by all; infinite where it does not
    say."""
    if device.platform == "cpu":
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return machine / jax.local_device_count(backend="cpu")
    try:
        found = device.memory_stats() or {}
    except jax.errors.JaxRuntimeError:  # a topology to compile for, without the device
        found = {}
    return found.get("bytes_limit", math.inf)


def agree_on_memory(least: float) -> None:
    """From here on a device counts as one of so much memory: of several processes each can ask only
    its own, and all must make the same programs.

    Args:
      least: bytes of the smallest device of any process.
    """
    global _agreed
    _agreed = least


def agreed_memory() -> float | None:
    """Bytes of a device that the processes of the run have agreed on; None: there is but one."""
    return _agreed


@contextlib.contextmanager
def compiling_for(target: Target) -> Iterator[None]:
    """While this lasts, programs that are traced are made for another machine.

    JAX keeps what it has traced by shapes alone: trace nothing here that was traced outside.

    Args:
      target: the machine.
    """
    token = _target.set(target)
    try:
        yield
    finally:
        _target.reset(token)
