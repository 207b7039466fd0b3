"""What a plan warns of."""

import math
from collections.abc import Iterator, Sequence

from rlhf_jax.io.disk import describe_bytes
from rlhf_jax.models import ModelConfig
from rlhf_jax.rewards.registry import MODEL
from rlhf_jax.runs.plan.machines import Machine
from rlhf_jax.runs.plan.phases import Phase
from rlhf_jax.runs.plan.programs import Planned
from rlhf_jax.sharding import row_shards

SMALL = 1024
"""Tokens of a microbatch on one device, below which products are too small to be fast."""
_TIGHT = 0.95
"""Share of the memory above which a plan is called tight: runtimes keep some for themselves."""


def warnings_of(
    planned: Planned, machine: Machine, phases: Sequence[Phase], *, is_own: bool
) -> tuple[str, ...]:
    """One line each.

    Args:
      planned: the run.
      machine: that it is planned for.
      phases: compiled.
      is_own: whether the machine's own compiler compiled them.
    """
    return (
        *(_compiler(machine) if not is_own and machine.chip.platform != "cpu" else ()),
        *(_no_estimate(machine) if is_own and machine.chip.clock is None else ()),
        *_room(machine, phases),
        *_mesh(planned, machine),
        *_rows(planned),
        *_vocabulary(planned, phases),
        *_rewards(planned),
        *_open(phases),
    )


def _compiler(machine: Machine) -> Iterator[str]:
    extra = {"tpu": "jax[tpu]", "gpu": "jax[cuda12]"}[machine.chip.platform]
    yield (
        f"compiled for CPUs, as the compiler of {machine.kind} is not installed (pip install "
        f"'{extra}'): bytes of temporaries and collectives are those of another compiler, and "
        "compute is useful operations at the peak rate"
    )


def _no_estimate(machine: Machine) -> Iterator[str]:
    yield (
        f"the compiler of {machine.kind} estimates no time: compute is useful operations at the "
        "peak rate, so that the step takes longer and its MFU is lower"
    )


def _room(machine: Machine, phases: Sequence[Phase]) -> Iterator[str]:
    room = machine.chip.memory
    for phase in phases:
        if phase.problem:
            yield f"{phase.name} does not compile: {phase.problem}"
        elif room and phase.peak > room:
            more = describe_bytes(phase.peak - room)
            yield (
                f"{phase.name} needs {more} more than a device has: raise "
                "training.num_microbatches, mesh.fsdp or mesh.tensor, or choose model.remat=full"
            )
        elif room and phase.peak > _TIGHT * room:
            yield f"{phase.name} fills {100 * phase.peak / room:.0f} % of a device"


def _mesh(planned: Planned, machine: Machine) -> Iterator[str]:
    shape = dict(planned.mesh.shape)
    if planned.mesh.size < machine.chips:
        yield f"{machine.chips - planned.mesh.size} of {machine.chips} devices do nothing"
    host = machine.chip.host
    if machine.chip.platform == "gpu" and shape["tensor"] > host:
        yield (
            f"tensor={shape['tensor']} crosses hosts of {host} devices: every layer waits for the "
            "network between them"
        )
    whole = machine.chip.platform == "tpu" and shape["fsdp"] == machine.chips > 1
    if whole and machine.chips > 16:
        yield (
            f"fsdp={shape['fsdp']} is the whole slice, where TPU compilers sum gradients on every "
            "chip instead of scattering them: with mesh.data > 1 half as much is sent"
        )


def _rows(planned: Planned) -> Iterator[str]:
    per_device = planned.work.rows * planned.work.width // row_shards(planned.mesh)
    if per_device < SMALL:
        yield (
            f"a microbatch has {per_device} tokens a device, too few for fast products: lower "
            "training.num_microbatches or raise training.batch_size"
        )


def _vocabulary(planned: Planned, phases: Sequence[Phase]) -> Iterator[str]:
    model = planned.loaded.model.config
    if not isinstance(model, ModelConfig):
        return
    table = model.vocab_size * model.hidden_size
    for phase in phases:
        for each in phase.largest:
            whole = [
                array
                for array in each.arrays
                if array.dtype == "f32"
                and model.vocab_size in array.dims
                and math.prod(array.dims) >= table
            ]
            if whole and each.group == planned.mesh.size > 1:
                sides = "x".join(map(str, whole[0].dims))
                yield (
                    f"{phase.name}: {each.kind} of a whole float32 table {sides} over all "
                    f"devices, {each.times:.0f} times"
                )


def _rewards(planned: Planned) -> Iterator[str]:
    labels = [each.label for each in planned.config.rewards if each.function == MODEL]
    if labels:
        yield (
            f"reward model {', '.join(labels)}: its bytes are counted, its forward pass over the "
            "completions is not"
        )


def _open(phases: Sequence[Phase]) -> Iterator[str]:
    for phase in phases:
        if phase.open_loops:
            yield (
                f"{phase.name} has loops that end when the data say so, counted once: "
                f"{', '.join(sorted(set(phase.open_loops)))}"
            )
