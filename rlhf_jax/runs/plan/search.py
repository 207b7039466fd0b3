"""Meshes worth compiling for, ranked by a formula."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rlhf_jax.config import Config
from rlhf_jax.runs.footprint import architecture_of, footprint
from rlhf_jax.runs.plan.machines import Machine
from rlhf_jax.runs.plan.microbatches import expected_to_fit
from rlhf_jax.runs.plan.programs import plan_programs
from rlhf_jax.runs.trees import tree_specs
from rlhf_jax.sharding import MeshConfig, make_mesh

_ROOM = 0.9
"""Share of a device's memory that the formula may fill."""
_BYTES = 2
"""Of a number that is sent, in bfloat16."""


class _Rated(NamedTuple):
    sizes: dict[str, int]
    expected: int
    """Bytes of one device."""
    sent: float
    """Bytes that one device sends in an update."""


def candidates(config: Config, machine: Machine, devices: Sequence[Any]) -> list[dict[str, int]]:
    """Meshes over all devices on which the run should fit, the one that sends least first.

    Args:
      config: a whole run.
      machine: that it is to run on.
      devices: of the machine.

    Raises:
      ValueError: none fits, or the rows of a step divide over none.
    """
    rated = []
    refused = ""
    for sizes in meshes(machine.chips, _heads(config), machine.chip.host):
        own = MeshConfig(**sizes, replicate=config.mesh.replicate)
        changed = _with(config, own)
        try:
            mesh = make_mesh(own, devices=list(devices))
            changed = expected_to_fit(changed, mesh, _ROOM * (machine.chip.memory or math.inf))
            planned = plan_programs(changed, mesh)
        except ValueError as error:
            refused = str(error)
            continue
        expected = footprint(planned.config, mesh, planned.work).peak()
        rated.append(_Rated(sizes, expected, _sent(changed, sizes, planned.work, mesh.size)))
    room = machine.chip.memory or math.inf
    fitting = [each for each in rated if each.expected <= _ROOM * room]
    if fitting:
        return [each.sizes for each in sorted(fitting, key=lambda each: each.sent)]
    if rated:
        least = min(rated, key=lambda each: each.expected)
        raise ValueError(
            f"no mesh of {machine.name} holds this run: {least.sizes} would need "
            f"{least.expected / 1e9:.1f} GB a device, and one has {room / 1e9:.1f} GB"
        )
    raise ValueError(f"no mesh of {machine.name} divides this run: {refused}")


def meshes(count: int, kv_heads: int, host: int) -> Iterator[dict[str, int]]:
    """Factorisations of the devices: `tensor` divides the key and value heads and stays on a host.

    Args:
      count: devices.
      kv_heads: of the model.
      host: devices of a host.
    """
    for tensor in _divisors(math.gcd(count, kv_heads)):
        if tensor > host:
            continue
        for fsdp in _divisors(count // tensor):
            yield {"data": count // tensor // fsdp, "fsdp": fsdp, "tensor": tensor}


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]


def _heads(config: Config) -> int:
    return architecture_of(config, tree_specs(config)[0]).num_kv_heads


def _with(config: Config, mesh: MeshConfig) -> Config:
    return dataclasses.replace(config, mesh=mesh)


def _sent(config: Config, sizes: dict[str, int], work: Any, devices: int) -> float:
    """Bytes of an update: parameters gathered for the forward and the backward pass and gradients
    scattered, in every microbatch; activations summed over `tensor`, twice a layer and pass;
    gradients summed over `data` once."""
    model = architecture_of(config, tree_specs(config)[0])
    parameters = model.num_layers * 12 * model.hidden_size**2
    fsdp = sizes["fsdp"]
    tensor = sizes["tensor"]
    micro = config.training.microbatches
    others = (fsdp - 1) / fsdp
    gathered = 3 * _BYTES * parameters / tensor * others * micro
    tokens = work.rows * work.width * micro / (sizes["data"] * fsdp)
    sums = 4 * 2 * (tensor - 1) / tensor * model.num_layers * tokens * model.hidden_size * _BYTES
    own = 2 * (sizes["data"] - 1) / sizes["data"] * 2 * _BYTES * parameters / tensor / fsdp
    return gathered + sums + own
