"""Machines that are planned for: what a chip can do, how many there are, and who compiles for them.

Rates are the makers' peaks (dense bfloat16). Sources: Google's pages "TPU v5e", "TPU v5p" and
"TPU v6e" (peak compute, HBM, interchip interconnect), NVIDIA's data sheets of H100 SXM and H200
SXM. Nothing here was measured.
"""

import contextlib
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

_GIB = 2**30


class Chip(NamedTuple):
    """One device."""

    platform: str
    """As JAX names it."""
    flops: float
    """bfloat16 operations per second at most."""
    memory: int
    """Bytes."""
    bandwidth: float
    """Bytes per second of its memory."""
    link: float
    """Bytes per second that it sends to others of its slice, or of its host."""
    host: int
    """Devices of one host, in machines of several."""
    clock: float | None = None
    """Cycles per second that the compiler's estimates are in: at this rate they give the peak of a
    large product within 20 % (v5e, v5p), and are 30 % pessimistic for v6e."""
    between: float | None = None
    """Bytes per second that one device sends to another host; None: `link` too."""


CHIPS = {
    "v5e": Chip("tpu", 197e12, 16 * _GIB, 819e9, 200e9, 4, 1.5e9),
    "v5p": Chip("tpu", 459e12, 95 * _GIB, 2765e9, 600e9, 4, 1.75e9),
    "v6e": Chip("tpu", 918e12, 32 * _GIB, 1638e9, 448e9, 4, 1.75e9),
    "h100": Chip("gpu", 989e12, 80 * 10**9, 3352e9, 450e9, 8, between=50e9),
    "h200": Chip("gpu", 989e12, 141 * 10**9, 4800e9, 450e9, 8, between=50e9),
}
_FLAT = {
    1: "1x1",
    4: "2x2",
    8: "2x4",
    16: "4x4",
    32: "4x8",
    64: "8x8",
    128: "8x16",
    256: "16x16",
}
_CUBES = {
    4: "2x2x1",
    8: "2x2x2",
    16: "2x2x4",
    32: "2x4x4",
    64: "4x4x4",
    128: "4x4x8",
    256: "4x8x8",
    512: "8x8x8",
}
_SLICES = {"v5e": _FLAT, "v6e": _FLAT, "v5p": _CUBES}
"""Chips -> the shape that their slice is offered in."""
_CORES = 2
"""Of a v5p chip: its accelerator types count cores (v5p-64 has 32 chips)."""


class Machine(NamedTuple):
    """Chips of one kind."""

    name: str
    chip: Chip
    kind: str
    chips: int
    shape: str
    """Of the slice, as the compiler knows it; of GPUs hosts x devices."""

    @property
    def hosts(self) -> int:
        """That run a process each. Slices of up to 8 chips of v5e and v6e are on one host."""
        single = 8 if self.kind in ("v5e", "v6e") else self.chip.host
        return 1 if self.chips <= single else -(-self.chips // self.chip.host)

    def describe(self) -> str:
        """In words."""
        hosts = "1 host" if self.hosts == 1 else f"{self.hosts} hosts"
        return f"{self.name}: {self.chips} x {self.kind} ({self.shape}), {hosts}"


def parse_machine(name: str) -> Machine:
    """A machine by its name.

    Args:
      name: an accelerator type of Google Cloud ("v5e-16", "v6e-64", "v5p-64": 64 cores, 32 chips),
        a slice by its shape ("v5p:4x4x4"), GPUs ("h100x8", "h200x64"), or CPU devices ("cpux8"),
        whose rates are not known.

    Raises:
      ValueError: there is none of that name; the line says which there are.
    """
    if found := re.fullmatch(r"(v5e|v5p|v6e)-(\d+)", name):
        kind = found.group(1)
        count, rest = divmod(int(found.group(2)), _CORES if kind == "v5p" else 1)
        if count in _SLICES[kind] and not rest:
            return Machine(name, CHIPS[kind], kind, count, _SLICES[kind][count])
        sizes = ", ".join(
            f"{kind}-{chips * (_CORES if kind == 'v5p' else 1)}" for chips in _SLICES[kind]
        )
        raise ValueError(f"--device={name}: there are {sizes}, or a shape such as {kind}:4x4")
    if found := re.fullmatch(r"(v5e|v5p|v6e):(\d+(?:x\d+){1,2})", name):
        kind = found.group(1)
        sides = [int(side) for side in found.group(2).split("x")]
        return Machine(name, CHIPS[kind], kind, math.prod(sides), found.group(2))
    if found := re.fullmatch(r"(h100|h200|cpu)x(\d+)", name):
        kind = found.group(1)
        count = int(found.group(2))
        chip = CHIPS.get(kind, _CPU)
        if count >= 1 and (count <= chip.host or count % chip.host == 0):
            hosts = max(1, count // chip.host)
            return Machine(name, chip, kind, count, f"{hosts}x{count // hosts}")
        raise ValueError(f"--device={name}: up to {chip.host}, or hosts of {chip.host}")
    raise ValueError(
        f"--device={name!r} is none that can be planned for: v5e-16, v5p-64, v6e-64, ... (Google's "
        "accelerator types), v5p:4x4x4 (a slice by its shape), h100x8, h200x64, ..., cpux8"
    )


_CPU = Chip("cpu", math.inf, 0, math.inf, math.inf, 1024)
"""Virtual devices: of a machine that is there, whose rates `rlhf-jax bench` measures."""


class Devices(NamedTuple):
    """What is compiled for."""

    devices: Sequence[Any]
    compiler: str
    """In words."""
    platform: str
    """That the compiled program is for."""

    @property
    def is_own(self) -> bool:
        """Whether the machine's own compiler is there."""
        return self.platform != "cpu"


def devices_of(machine: Machine) -> Devices:
    """Devices to compile for: the machine's own, where its compiler is installed, else as many
    virtual ones of this computer.

    Raises:
      ValueError: this process has begun with fewer devices already.
    """
    if machine.chip.platform == "tpu" and importlib.util.find_spec("libtpu") is not None:
        return Devices(_tpu(machine), "libtpu, the TPU's own compiler", "tpu")
    if machine.chip.platform == "gpu" and importlib.util.find_spec("jax_cuda12_plugin"):
        return Devices(_gpu(machine), "XLA's GPU compiler", "gpu")
    with contextlib.suppress(RuntimeError):  # a process that has asked for devices: they stand
        jax.config.update("jax_num_cpu_devices", machine.chips)
    found = jax.devices("cpu")
    if len(found) < machine.chips:
        raise ValueError(
            f"{machine.name} needs {machine.chips} virtual devices and this process has begun with "
            f"{len(found)}: plan in a process of its own (rlhf-jax plan)"
        )
    return Devices(found[: machine.chips], "XLA for CPUs, with virtual devices", "cpu")


def _tpu(machine: Machine) -> Sequence[Any]:
    # The library would ask a service of Google's machines what it is on, and let one process in.
    kind = "v5litepod" if machine.kind == "v5e" else machine.kind
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": f"{kind}-{machine.chips}",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }.items():
        os.environ.setdefault(name, value)
    sides = [int(side) for side in machine.shape.split("x")]
    options: dict[str, Any] = {}
    if machine.kind == "v5p" and all(side % 4 == 0 for side in sides):
        # A cube of v5p is a torus. Taken for an open grid, its gathers become sums.
        options["wrap"] = (True, True, True)
    return topologies.get_topology_desc(
        platform="tpu", topology_name=f"{machine.kind}:{machine.shape}", **options
    ).devices


_GPU = """gpu_device_info {{ threads_per_block_limit: 1024 threads_per_warp: 32
 shared_memory_per_block: 49152 shared_memory_per_core: 233472 threads_per_core_limit: 2048
 core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 block_dim_limit_x: 2147483647
 block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: {bandwidth}
 l2_cache_size: 52428800 device_memory_size: {memory} shared_memory_per_block_optin: 232448
 cuda_compute_capability {{ major: 9 }} registers_per_core_limit: 65536
 registers_per_block_limit: 65536 }} platform_name: "CUDA" runtime_version {{ major: 12 minor: 8 }}
 dnn_version_info {{ major: 9 minor: 7 }} device_description_str: "{name}" """
"""An H100 or H200 (both GH100) as XLA describes devices (`GpuTargetConfigProto`)."""


def _gpu(machine: Machine) -> Sequence[Any]:
    description = _GPU.format(
        bandwidth=round(machine.chip.bandwidth),
        memory=machine.chip.memory,
        name=f"NVIDIA {machine.kind.upper()}",
    )
    return topologies.get_topology_desc(
        machine.name, "cuda", target_config=description, topology=f"1x{machine.shape}"
    ).devices
