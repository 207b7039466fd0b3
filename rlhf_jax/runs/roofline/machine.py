"""What the machine can do, measured in the process that is to do it: products and memory traffic.

Two products, as neither is always the faster one: a large square, and the size of the model's own
MLP. Two ways through memory: a large array is added to in place (read and written), and a matrix is
multiplied by a vector (read, as decoding reads the parameters). The faster of each two is the roof
that programs are held against.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlhf_jax.models import ModelConfig

SQUARE = {"cpu": 1536}
"""Side of the square product by platform; elsewhere `SIDE`."""
SIDE = 8192
ELEMENTS = 2**26
"""Of the large array of a device (256 MB of float32): beyond caches, and little beside a run."""
LEAST = 0.3
"""Seconds that a look at a probe takes at least: shorter ones are repeated within it."""


class Probe:
    """One measurable ability, with the arrays that it needs."""

    def __init__(self, name: str, amount: float, run: Callable[[], Any]) -> None:
        """Remembers what to run.

        Args:
          name: what is done, and its size.
          amount: operations or bytes of one run.
          run: does it; its result is waited for.
        """
        self.name = name
        self._amount = amount
        self._run = run
        self._times = 0

    def rate(self) -> float:
        """Operations or bytes per second, now."""
        if not self._times:
            # Once to compile, once to see how often it takes to be measurable.
            self._seconds(1)
            self._times = max(1, round(LEAST / self._seconds(1)))
        return self._amount * self._times / self._seconds(self._times)

    def _seconds(self, times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            jax.block_until_ready(self._run())
        return time.perf_counter() - start


class Look(NamedTuple):
    """Rates of all probes at one time, in their order."""

    products: tuple[float, ...]
    """Operations per second, over all devices."""
    memory: tuple[float, ...]
    """Bytes per second, over all devices."""


class Machine(NamedTuple):
    """The probes."""

    products: tuple[Probe, ...]
    memory: tuple[Probe, ...]

    def look(self) -> Look:
        """Measures all of them."""
        return Look(
            tuple(probe.rate() for probe in self.products),
            tuple(probe.rate() for probe in self.memory),
        )


def make_machine(mesh: Mesh, config: ModelConfig, *, tokens: int, dtype: str) -> Machine:
    """The probes of a run.

    Args:
      mesh: every one of its devices works at the same time, on its own rows.
      config: of the policy; its MLP is one of the products.
      tokens: that a layer sees at a time, over all devices.
      dtype: of the products.
    """
    platform = mesh.devices.flat[0].platform
    side = SQUARE.get(platform, SIDE)
    square = _product(mesh, (side * mesh.size, side, side), dtype)
    rows = -(-tokens // mesh.size) * mesh.size
    own = _product(mesh, (rows, config.hidden_size, config.intermediate_size), dtype)
    return Machine((square, own), (_add(mesh, ELEMENTS), _matrix_vector(mesh, ELEMENTS, dtype)))


def fastest(looks: Sequence[tuple[float, ...]]) -> int:
    """Which probe has the largest median.

    Args:
      looks: rates of several probes, each time.
    """
    medians = [sorted(rates)[len(rates) // 2] for rates in zip(*looks, strict=True)]
    return medians.index(max(medians))


def _product(mesh: Mesh, shape: tuple[int, int, int], dtype: str) -> Probe:
    rows, inner, columns = shape
    left = _ones(mesh, (rows, inner), dtype, divided=True)
    right = _ones(mesh, (inner, columns), dtype, divided=False)
    dot = jax.jit(jnp.dot)
    name = f"{dtype} {rows} x {inner} x {columns}"
    return Probe(name, 2.0 * rows * inner * columns, lambda: dot(left, right))


def _add(mesh: Mesh, elements: int) -> Probe:
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    held = [_ones(mesh, (elements * mesh.size,), "float32", divided=True)]

    def run() -> Any:
        held[0] = add(held[0])
        return held[0]

    size = 4.0 * elements * mesh.size
    return Probe(f"{size / 1e6:.0f} MB read and written in place", 2 * size, run)


def _matrix_vector(mesh: Mesh, elements: int, dtype: str) -> Probe:
    side = int(elements**0.5)
    matrix = _ones(mesh, (side * mesh.size, side), dtype, divided=True)
    vector = _ones(mesh, (side,), dtype, divided=False)
    dot = jax.jit(jnp.dot)
    return Probe(
        f"{matrix.nbytes / 1e6:.0f} MB matrix x vector",
        float(matrix.nbytes),
        lambda: dot(matrix, vector),
    )


def _ones(mesh: Mesh, shape: tuple[int, ...], dtype: str, *, divided: bool) -> jax.Array:
    spec = PartitionSpec(mesh.axis_names) if divided else PartitionSpec()
    return jax.jit(lambda: jnp.ones(shape, dtype), out_shardings=NamedSharding(mesh, spec))()
