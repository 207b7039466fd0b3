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
    """Whether every step is to be awaited before the next is dispatched: on CPUs.

    Virtual devices deadlock in collectives when many dispatches are left un-awaited. And of two
    steps under way, the second begins while the temporaries of the first are still allocated: of
    25M parameters on 8 x 256 tokens the process held 2.9 GB at most, awaited 1.9 GB. There is
    nothing to win either, as host and device share the cores.
    """
    return mesh.devices.flat[0].platform == "cpu"
