"""The device mesh: axes `data`, `fsdp` and `tensor`, any of size one."""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
from jax.sharding import AxisType, Mesh

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
"""Mesh axes over which the rows of a batch are divided."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes. At most one may be -1: all devices that the others leave."""

    data: int = 1
    """Copies of the parameters; each works on its own rows."""
    fsdp: int = -1
    """Parameters and optimizer moments are divided over it, and so are the rows."""
    tensor: int = 1
    """Heads, MLP columns and vocabulary are divided over it; rows are not."""
    replicate: tuple[str, ...] = ()
    """Regular expressions of parameter names that are kept whole on every device although a rule
    would divide them (for a dimension that does not divide, such as GPT-2's vocabulary of
    50257)."""

    def __post_init__(self) -> None:
        sizes = {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}
        for name, size in sizes.items():
            if size != -1 and size < 1:
                raise ValueError(
                    f"mesh.{name}={size} must be at least 1, or -1 for all remaining devices"
                )
        free = [name for name in ("data", "tensor", "fsdp") if sizes[name] == -1]
        if len(free) > 1:
            raise ValueError(f"mesh.{free[0]}=-1 and {free[1]}=-1: only one axis may be -1")
        for pattern in self.replicate:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"mesh.replicate: {pattern!r} is not a regular expression: {error.msg}"
                ) from None

    def sizes(self, num_devices: int) -> dict[str, int]:
        """Axis sizes with -1 resolved.

        Raises:
          ValueError: the devices cannot be arranged so.
        """
        sizes = {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}
        fixed = math.prod(size for size in sizes.values() if size != -1)
        if -1 in sizes.values() and num_devices % fixed == 0:
            return {
                name: num_devices // fixed if size == -1 else size for name, size in sizes.items()
            }
        if -1 in sizes.values() or fixed > num_devices:
            text = " x ".join(f"{name}={size}" for name, size in sizes.items())
            raise ValueError(
                f"mesh {text} does not fit {num_devices} devices; the product of the axes must "
                "divide the number of devices"
            )
        return sizes


def row_shards(mesh: Mesh) -> int:
    """Devices over which the rows of a batch are divided."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def make_mesh(
    config: MeshConfig | Mapping[str, int], *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh with axes ``("data", "fsdp", "tensor")`` and Auto axis types (sharding is propagated
    by the compiler).

    Args:
      config: axis sizes; an axis left out of a mapping has size 1.
      devices: the devices to use; all of them when None. A mesh smaller than that uses the first
        ones and says so in the log.

    Returns:
      The mesh.

    Raises:
      ValueError: an unknown axis, a size below 1, or sizes that do not fit the devices.
    """
    if not isinstance(config, MeshConfig):
        unknown = sorted(set(config) - set(MESH_AXES))
        if unknown:
            raise ValueError(
                f"mesh axis {unknown[0]!r} is unknown; the axes are {', '.join(MESH_AXES)}"
            )
        config = MeshConfig(
            data=config.get("data", 1), fsdp=config.get("fsdp", 1), tensor=config.get("tensor", 1)
        )
    devices = list(jax.devices() if devices is None else devices)
    sizes = config.sizes(len(devices))
    used = math.prod(sizes.values())
    if used < len(devices):
        if jax.process_count() > 1:
            raise ValueError(
                f"mesh {sizes} uses {used} of {len(devices)} devices; with several processes it "
                "must use all of them"
            )
        _log.warning("mesh %s uses %d of %d devices", sizes, used, len(devices))
    shape = tuple(sizes[name] for name in MESH_AXES)
    return jax.make_mesh(
        shape, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES), devices=devices[:used]
    )
