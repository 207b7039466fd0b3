"""On which machines the devices of a mesh stand: networks inside one are faster than those between.

Chips of a TPU slice have one network, whatever machine drives them.
"""

import logging
import math
from collections import Counter

import jax
from jax.sharding import Mesh

from rlhf_jax.sharding.processes import machine_of

_log = logging.getLogger(__name__)


def devices_of_a_host(mesh: Mesh) -> int:
    """Largest number of devices that groups inside of machines can have, on every machine."""
    return math.gcd(*Counter(map(_host, mesh.devices.flat)).values())


def warn_of_tensor_between_hosts(mesh: Mesh) -> None:
    """Says when every layer waits for the network between machines."""
    groups = mesh.devices.reshape(-1, mesh.shape["tensor"])
    if mesh.devices.flat[0].platform == "tpu":
        return
    if any(len(set(map(_host, group))) > 1 for group in groups):
        _log.warning(
            "mesh.tensor=%d goes over several machines, and every layer waits for the network "
            "between them: make it at most %d, and data or fsdp larger",
            mesh.shape["tensor"],
            devices_of_a_host(mesh),
        )


def _host(device: jax.Device) -> str:
    return machine_of(device.process_index)
