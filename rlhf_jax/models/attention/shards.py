"""Kernels on a mesh: each device computes its own rows and heads."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from rlhf_jax.sharding import BATCH_AXES, row_shards

_HEADS = "tensor"


def undivided(q: Array, k: Array, mesh: Mesh | None) -> str | None:
    """Why rows or heads cannot be divided over a mesh; None: they can, or there is none.

    Args:
      q: queries [B, T, N, H].
      k: keys [B, T, K, H].
      mesh: rows over `data` and `fsdp`, heads over `tensor`.
    """
    if mesh is None:
        return None
    rows, _, heads, _ = q.shape
    if rows % row_shards(mesh):
        return f"{rows} rows do not divide over mesh data x fsdp = {row_shards(mesh)}"
    tensor = mesh.shape[_HEADS]
    if math.gcd(heads, k.shape[2]) % tensor:
        return f"{k.shape[2]} key/value heads do not divide over mesh tensor = {tensor}"
    return None


def on_shards(
    local: Callable[..., Array], mesh: Mesh | None, *others: Any, heads_axis: int
) -> Callable[..., Array]:
    """Attention of one device as that of a mesh.

    Args:
      local: (q, k, v, *others) -> array of q's shape, of the rows and heads that a device has.
      mesh: rows over `data` and `fsdp`, heads over `tensor`; None: one device.
      others: trees of arrays [B, T]; only their structure is read.
      heads_axis: of q, k and v, 1 or 2.
    """
    if mesh is None or mesh.size == 1:
        return local
    axes: list[Any] = [BATCH_AXES, None, None, None]
    axes[heads_axis] = _HEADS
    heads = PartitionSpec(*axes)
    of_rows = [jax.tree.map(lambda _: PartitionSpec(BATCH_AXES, None), tree) for tree in others]
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(heads, heads, heads, *of_rows),
        out_specs=heads,
        check_vma=False,  # the kernels' outputs do not say over which axes they vary
    )
