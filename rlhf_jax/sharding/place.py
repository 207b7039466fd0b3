"""Host arrays to the mesh, and back."""

from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, Sharding

from rlhf_jax.sharding.rules import batch_sharding, replicated

BatchT = TypeVar("BatchT")
TreeT = TypeVar("TreeT")


def place_batch(batch: BatchT, mesh: Mesh) -> BatchT:
    """A NumPy batch on the devices, its leading axis divided over `data` and `fsdp`.

    Where the mesh spans several processes each has the whole batch, and places what its own devices
    hold of it.
    """
    return _placed(batch, batch_sharding(mesh))


def place_whole(tree: TreeT, mesh: Mesh) -> TreeT:
    """Host arrays, the same in every process, whole on every device."""
    return _placed(tree, replicated(mesh))


def place_tree(tree: TreeT, shardings: Any) -> TreeT:
    """Arrays, the same in every process, each in its own sharding.

    Args:
      tree: arrays of the host, or of this process's devices.
      shardings: a tree of shardings of the same structure.
    """
    return jax.tree.map(_placed, tree, shardings)


def own_rows(mesh: Mesh, number: int) -> frozenset[int]:
    """Rows of a batch of `number` that devices of this process hold.

    They follow from the sharding: on a TPU the numbers of processes say nothing about it.
    """
    held = batch_sharding(mesh).addressable_devices_indices_map((number,))
    parts = [range(number)[index[0]] for index in held.values() if index is not None]
    return frozenset(row for part in parts for row in part)


def fetch(tree: Any) -> Any:
    """Arrays of devices as NumPy arrays. Of a mesh over several processes each gets all, and all
    must call it."""
    if jax.process_count() == 1:
        return jax.device_get(tree)

    def whole(x: Any) -> Any:
        is_here = not isinstance(x, jax.Array) or x.is_fully_replicated or x.is_fully_addressable
        return jax.device_get(x) if is_here else multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(whole, tree)


def needs_blocking(mesh: Mesh) -> bool:
    """Virtual CPU devices deadlock in collectives when many dispatches are left un-awaited: await
    every step there."""
    return mesh.size > 1 and mesh.devices.flat[0].platform == "cpu"


def _placed(tree: TreeT, sharding: Sharding) -> TreeT:
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def shards(x: Any) -> jax.Array:
        # As `jax.device_put` does, which compares the values of all processes: a collective each.
        host = np.asarray(x)
        host = host.astype(jax.dtypes.canonicalize_dtype(host.dtype))
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(shards, tree)
