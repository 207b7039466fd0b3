"""Compiled programs as phases of a training step: what they hold, move and take."""

import math
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from rlhf_jax.runs.footprint import MOMENTS, Footprint
from rlhf_jax.runs.plan.collectives import Collective, Sum, Traffic, by_kind, traffic
from rlhf_jax.runs.plan.machines import Chip, Machine
from rlhf_jax.runs.plan.program import Program
from rlhf_jax.runs.plan.programs import Planned

KERNELS = 0.6
"""Share of the peak rate at which attention kernels are counted, as the compiler has no estimate of
them."""
_AT_ONCE = 2
"""Programs compiled side by side: a compiler uses little more than one core."""
_USED = re.compile(r"Used ([\d.]+)([KMGT]) of")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Phase(NamedTuple):
    """One program in a training step whose rows are as long as they may be."""

    name: str
    calls: float
    """In a step; 0: before the first one."""
    arguments: int
    """Bytes of one device."""
    temporaries: int
    peak: int
    """With whatever else the run holds meanwhile."""
    flops: float
    """Useful operations of a step, over all devices."""
    compute: float
    """Seconds of a step: the compiler's estimate where it has one (memory traffic is in it), else
    useful operations at the peak rate."""
    memory: float
    """Seconds that reading and writing what must be read and written takes at least."""
    network: float
    """Seconds that sending takes at least, if one device sends to one other at its full rate."""
    collectives: dict[str, Sum]
    """By kind, in one call."""
    largest: tuple[Collective, ...]
    kernels: float
    """Calls of kernels of one's own."""
    open_loops: tuple[str, ...]
    compile_seconds: float
    problem: str = ""
    """Why it does not compile; the other figures are then 0 but for `peak`, where it is known."""

    @property
    def seconds(self) -> float:
        """Of a step, where everything that can overlap does."""
        return max(self.compute, self.memory, self.network)

    @property
    def seconds_apart(self) -> float:
        """Of a step, where nothing is sent while something is computed."""
        return max(self.compute, self.memory) + self.network

    @property
    def limit(self) -> str:
        """What `seconds` consists of."""
        sizes = {"compute": self.compute, "memory": self.memory, "network": self.network}
        return max(sizes, key=lambda name: sizes[name])


def compile_phases(
    planned: Planned,
    machine: Machine,
    expected: Footprint,
    *,
    names: Sequence[str] = (),
) -> tuple[Phase, ...]:
    """Compiles the programs of a run.

    Args:
      planned: the run.
      machine: that it is planned for.
      expected: what it holds.
      names: of the programs; none: all.
    """
    programs = [each for each in planned.programs if not names or each.name in names]
    # Traced here, one after the other: tracing asks the context what it is for.
    traced = [(each, each.lower()) for each in programs]

    def phase(pair: tuple[Program, Any]) -> Phase:
        return _phase(*pair, planned, machine, expected)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return tuple(pool.map(phase, traced))


def _phase(
    program: Program, lowered: Any, planned: Planned, machine: Machine, expected: Footprint
) -> Phase:
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        seconds = time.perf_counter() - start
        return _failed(program, str(error), _held_beside(program, expected), seconds)
    seconds = time.perf_counter() - start
    moved = traffic(compiled.as_text(), planned.mesh.size, turns=program.trips)
    sizes = compiled.memory_analysis()
    chip = machine.chip
    return Phase(
        program.name,
        program.calls,
        int(sizes.argument_size_in_bytes),
        int(sizes.temp_size_in_bytes),
        program_peak(program, sizes, planned.mesh, expected),
        program.flops,
        compute=_compute(program, moved, chip, planned.mesh),
        memory=program.traffic / chip.bandwidth,
        network=max(program.calls, 1) * sending(moved, machine),
        collectives=by_kind(moved.collectives),
        largest=moved.collectives[:5],
        kernels=moved.kernels,
        open_loops=moved.unknown_loops if program.trips == 1 else (),
        compile_seconds=seconds,
    )


def sending(moved: Traffic, machine: Machine) -> float:
    """Seconds in which one device sends its part of a call: to others of its host or slice, or,
    where GPUs of several hosts take part together, over the network between hosts.

    Args:
      moved: of one call.
      machine: that it is planned for.
    """
    chip = machine.chip
    total = 0.0
    for each in moved.collectives:
        hosts = {member // chip.host for member in each.members}
        is_wide = machine.hosts > 1 and len(hosts) != 1
        between = chip.between if is_wide and chip.between is not None else chip.link
        total += each.wire / between
    return total


def _compute(program: Program, moved: Traffic, chip: Chip, mesh: Mesh) -> float:
    """Seconds of a step on one device."""
    if not moved.cycles or chip.clock is None:
        return program.flops / mesh.size / chip.flops
    estimated = max(program.calls, 1) * moved.cycles / chip.clock
    if not moved.kernels:
        return estimated
    return estimated + program.attention / mesh.size / (KERNELS * chip.flops)


def program_peak(program: Program, sizes: Any, mesh: Mesh, expected: Footprint) -> int:
    """Bytes of one device while a program runs, with whatever else the run holds meanwhile.

    On TPUs it is the allocator's own plan. CPUs allocate all temporaries of a program at once; a
    result that takes the place of a donated argument counts once.

    Args:
      program: one of a run's.
      sizes: its `memory_analysis`.
      mesh: of the run.
      expected: what the run holds.
    """
    beside = _held_beside(program, expected)
    if mesh.devices.flat[0].platform == "tpu":
        return beside + int(sizes.peak_memory_in_bytes)
    held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return beside + int(held + sizes.temp_size_in_bytes)


def _held_beside(program: Program, expected: Footprint) -> int:
    held = expected.of("held") - device_bytes_of(program.reads)
    if not program.calls:
        # Before the first step there are no moments yet.
        held -= sum(part.bytes for part in expected.parts if part.name == MOMENTS)
    return max(held, 0)


def device_bytes_of(tree: Any) -> int:
    """Bytes that one device holds of shapes in their shards."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(tree)
    )


def _failed(program: Program, message: str, beside: int, seconds: float) -> Phase:
    used = _USED.search(message)
    peak = 0
    if used is not None:
        peak = beside + round(float(used.group(1)) * _UNITS[used.group(2)])
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return Phase(
        program.name, program.calls, 0, 0, peak, program.flops, 0.0, 0.0, 0.0, {}, (), 0.0, (),
        compile_seconds=seconds, problem=lines[0][:300],
    )  # fmt: skip
