"""Rows of the host through a program, so many at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.sharding import Mesh

from rlhf_jax.sharding.mesh import row_shards
from rlhf_jax.sharding.place import fetch, place_batch


def in_parts(
    function: Callable[..., Any], *, mesh: Mesh, rows_at_once: int | None
) -> Callable[..., np.ndarray]:
    """A program for any number of rows, which computes them in parts of one shape.

    Args:
      function: jitted; (arrays of the same R rows on the mesh) -> array of R rows.
      mesh: the device mesh; rows are divided over `data` and `fsdp`.
      rows_at_once: rows of a part at most; None: all.

    Returns:
      (arrays of the host, of the same number of rows) -> NumPy array of as many.

    Raises:
      ValueError: `rows_at_once` is not a multiple of the mesh's rows.
    """
    shards = row_shards(mesh)
    if rows_at_once is not None and (rows_at_once < 1 or rows_at_once % shards):
        raise ValueError(
            f"rows_at_once={rows_at_once} must be a positive multiple of {shards} (mesh data x "
            "fsdp)"
        )

    def all_rows(*arrays: Any) -> np.ndarray:
        rows = len(arrays[0])
        part = rows if rows_at_once is None else min(rows, rows_at_once)
        part += -part % shards
        padded = [
            np.pad(np.asarray(array), ((0, -rows % part), *((0, 0),) * (np.ndim(array) - 1)))
            for array in arrays
        ]
        # Each is read before the next one starts: two under way would hold the temporaries of two.
        found = [
            fetch(function(*place_batch(tuple(one[start : start + part] for one in padded), mesh)))
            for start in range(0, len(padded[0]), part)
        ]
        return np.concatenate(found)[:rows]

    return all_rows
