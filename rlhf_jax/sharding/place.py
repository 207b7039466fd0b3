"""Host batches to the mesh."""

from typing import TypeVar

import jax
from jax.sharding import Mesh

from rlhf_jax.sharding.rules import batch_sharding

BatchT = TypeVar("BatchT")


def place_batch(batch: BatchT, mesh: Mesh) -> BatchT:
    """A NumPy batch on the devices, its leading axis divided over `data` and `fsdp`."""
    return jax.device_put(batch, batch_sharding(mesh))


def needs_blocking(mesh: Mesh) -> bool:
    """Virtual CPU devices deadlock in collectives when many dispatches are left un-awaited: await
    every step there."""
    return mesh.size > 1 and mesh.devices.flat[0].platform == "cpu"
