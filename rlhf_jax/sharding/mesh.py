"""The device mesh: axes `data`, `fsdp` and `tensor`, any of size one."""

import logging
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from rlhf_jax.checked import checked

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
"""Mesh axes over which the rows of a batch are divided."""

_log = logging.getLogger(__name__)


@checked
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

    Devices are arranged by their places in the network, the axes that talk most next to each other.
    Every factorisation of the number of devices gives a mesh. Of several TPU slices each holds
    whole `fsdp` and `tensor` axes, and `data` goes over the slower network between them.

    Args:
      config: axis sizes; an axis left out of a mapping has size 1.
      devices: the devices to use; all of them when None. A mesh smaller than that uses the first
        ones and says so in the log.

    Returns:
      The mesh.

    Raises:
      ValueError: an unknown axis, a size below 1, sizes that do not fit the devices, or a `data`
        that does not divide over the slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = _sizes(config, len(devices))
    return _mesh(_arranged(sizes, devices[: math.prod(sizes.values())]))


def mesh_over(mesh: Mesh, config: MeshConfig | Mapping[str, int]) -> Mesh:
    """Another mesh over the devices of one, in its order.

    Arranged anew, the devices of another shape would come in another order, and what moves from
    one mesh to the other would move between devices that need not talk.

    Args:
      mesh: whose devices.
      config: axis sizes; an axis left out of a mapping has size 1. A mesh smaller than the other
        one uses its first devices and says so in the log.

    Raises:
      ValueError: an unknown axis, a size below 1, or sizes that do not fit the devices.
    """
    sizes = _sizes(config, mesh.size)
    taken = mesh.devices.reshape(-1)[: math.prod(sizes.values())]
    return _mesh(taken.reshape(_shape(sizes)))


def _sizes(config: MeshConfig | Mapping[str, int], count: int) -> dict[str, int]:
    """Axis sizes for this many devices; says where they do not use all of them."""
    if not isinstance(config, MeshConfig):
        unknown = sorted(set(config) - set(MESH_AXES))
        if unknown:
            raise ValueError(
                f"mesh axis {unknown[0]!r} is unknown; the axes are {', '.join(MESH_AXES)}"
            )
        config = MeshConfig(
            data=config.get("data", 1), fsdp=config.get("fsdp", 1), tensor=config.get("tensor", 1)
        )
    sizes = config.sizes(count)
    used = math.prod(sizes.values())
    if used < count:
        if jax.process_count() > 1:
            raise ValueError(
                f"mesh {sizes} uses {used} of {count} devices; with several processes it "
                "must use all of them"
            )
        _log.warning("mesh %s uses %d of %d devices", sizes, used, count)
    return sizes


def _shape(sizes: Mapping[str, int]) -> list[int]:
    return [sizes[name] for name in MESH_AXES]


def _mesh(devices: np.ndarray) -> Mesh:
    return Mesh(devices, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def _arranged(sizes: Mapping[str, int], devices: Sequence[jax.Device]) -> np.ndarray:
    """Devices [data, fsdp, tensor] by their places in the network."""
    shape = _shape(sizes)
    # Slices of TPUs have a network of their own each. Where GPUs stand in several hosts any axis
    # may go over all of them.
    on_tpu = devices[0].platform == "tpu"
    counts = Counter(getattr(device, "slice_index", 0) for device in devices if on_tpu)
    if len(counts) < 2:
        try:
            # `jax.make_mesh` refuses to split a physical axis (v6e 8x8 as 16 x 4).
            return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        except AssertionError as error:  # that is how it says so
            raise ValueError(
                f"mesh {dict(sizes)}: {len(devices)} chips in a row are no box of the slice; use "
                "all devices, or such a box of them"
            ) from error
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"mesh {dict(sizes)} takes {', '.join(map(str, counts.values()))} devices of "
            f"{len(counts)} slices; it must take as many of each"
        )
    if sizes["data"] % len(counts):
        raise ValueError(
            f"mesh.data={sizes['data']} must be a multiple of {len(counts)}, the number of slices: "
            "only data goes over the network between them"
        )
    within = [sizes["data"] // len(counts), *shape[1:]]
    return mesh_utils.create_hybrid_device_mesh(
        within, [len(counts), 1, 1], devices, allow_split_physical_axes=True
    )
