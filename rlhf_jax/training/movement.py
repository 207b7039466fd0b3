"""Whether parameters move at all: an update of less than half a unit in the last place of a number
is rounded away.

bfloat16 has 8 bits of precision, so a weight of 0.02 moves in steps of about 1e-4. A learning rate
of 1e-6 then leaves most weights as they are, in every step anew, and the run learns next to nothing
without an error. One look after the first updates tells: it reads some weights twice, and nothing
in between.
"""

import math
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array

from rlhf_jax.sharding import replicated
from rlhf_jax.types import Params

UPDATES = 20
"""Updates after the warm-up at which parameters are looked at."""
SAMPLE = 65_536
"""Weights that are looked at, at most."""


class MovementCheck:
    """Finds out once how many of a run's 16-bit parameters move.

    Only the layers are looked at: rows of an embedding rest when their token does not occur.
    Nothing is done with float32 parameters or a learning rate of 0.

    Attributes:
      due: updates from which on `look` looks; None: never, or never again.
    """

    def __init__(
        self, params: Params, *, mesh: Mesh, learning_rate: float, warmup: int, total: int
    ) -> None:
        """Keeps some of the parameters.

        Args:
          params: before the first update.
          mesh: their mesh.
          learning_rate: peak.
          warmup: updates in the beginning that move little or nothing.
          total: updates of the run.
        """
        self._mesh = mesh
        self._start = self._sample(params) if learning_rate > 0 and total > 0 else []
        self.due = min(warmup + UPDATES, total) if self._start else None

    def look(self, params: Params, updates: int) -> float | None:
        """Compares with the beginning, once enough updates have been made.

        Args:
          params: as they are now.
          updates: made since the beginning.

        Returns:
          The share that has moved, the one time that it is found out; None otherwise.
        """
        if self.due is None or updates < self.due:
            return None
        pairs = zip(self._start, self._sample(params), strict=True)
        moved = np.concatenate([(before != now).reshape(-1) for before, now in pairs])
        share = float(moved.mean())
        self.due = None
        self._start = []
        return share

    def _sample(self, params: Params) -> list[np.ndarray]:
        """Elements of every 16-bit leaf of the layers, evenly spread, on the host."""
        leaves = [
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)
            if "layers" in jax.tree_util.keystr(path, simple=True, separator="/").split("/")
            and leaf.dtype.itemsize == 2
        ]
        each = SAMPLE // max(len(leaves), 1)
        return (
            jax.device_get(_take(leaves, each=each, sharding=replicated(self._mesh)))
            if leaves
            else []
        )


@partial(jax.jit, static_argnames=("each", "sharding"))
def _take(leaves: list[Array], each: int, sharding: NamedSharding) -> list[Array]:
    """About `each` elements of every leaf, with one stride along all of its axes, whole on every
    device."""
    taken = []
    for leaf in leaves:
        for axis in reversed(range(leaf.ndim)):
            stride = min(
                leaf.shape[axis], max(1, math.ceil((leaf.size / each) ** (1 / (axis + 1))))
            )
            leaf = leaf[(slice(None),) * axis + (slice(None, None, stride),)]
        taken.append(jax.lax.with_sharding_constraint(leaf, sharding))
    return taken
