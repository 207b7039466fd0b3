"""One program of a training step, before it is compiled."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from rlhf_jax.sharding import infer_shardings
from rlhf_jax.types import Params


class Program(NamedTuple):
    """One program of a training step."""

    name: str
    lower: Callable[[], Any]
    """Traces it; the result compiles."""
    calls: float
    """In a training step when rows are as long as they may be; 0: before the first step."""
    flops: float
    """Useful operations of a step, over all devices (`rlhf_jax.models.flops`)."""
    traffic: float
    """Bytes of a step that one device must read and write at least."""
    attention: float
    """Useful operations of a step that are attention's: where a kernel computes it, the compiler
    has no estimate."""
    reads: Any
    """Trees that it gets as arguments; what a run holds besides stays where it is meanwhile."""
    trips: float = 1.0
    """Iterations of its loops that end when the data say so."""


def placed(tree: Params, mesh: Mesh, replicate: Sequence[str]) -> Params:
    """Shapes in their shards.

    Args:
      tree: parameters as shapes.
      mesh: where they would lie.
      replicate: names that are kept whole.
    """
    shardings = infer_shardings(tree, mesh, replicate=replicate)
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree, shardings
    )
