"""What a compiled program moves between devices, and what the compiler thinks it costs.

Read from the optimised program's text alone, so it needs no device: the compilers of TPUs and GPUs
run on any machine (`jax.experimental.topologies`).
"""

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.runs.plan.hlo import Instruction, Program, Shape, arrays, read

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
)
_SENT = {"all-gather": 1, "reduce-scatter": 1, "all-to-all": 1, "all-reduce": 2}
"""Times (n - 1) / n of its bytes that each device of a ring of n sends."""


class Collective(NamedTuple):
    """One collective of a program."""

    kind: str
    """One of `KINDS`."""
    arrays: tuple[Shape, ...]
    """What an instruction makes: of a reduce-scatter a part of what is summed."""
    bytes: int
    """Of the whole array: the result of a gather, what a reduce-scatter sums."""
    group: int
    """Devices that take part together."""
    members: tuple[int, ...]
    """The first group, as numbers in the order of the mesh; empty: the text does not say."""
    times: float
    """How often it runs in a call of the program."""
    source: str
    """Where in the Python program it comes from."""

    @property
    def total(self) -> float:
        """Bytes of all its runs."""
        return self.bytes * self.times

    @property
    def wire(self) -> float:
        """Bytes that a device sends in all its runs, on rings."""
        share = _SENT.get(self.kind)
        return self.total * (1 if share is None else share * (self.group - 1) / self.group)


class Traffic(NamedTuple):
    """What a program moves and computes."""

    collectives: tuple[Collective, ...]
    """The largest first, by `total`."""
    cycles: float
    """Of a chip, as the TPU compiler estimates, collectives and Pallas kernels not included; 0: the
    compiler does not say."""
    kernels: float
    """Calls of Pallas kernels, whose cycles the compiler does not know."""
    unknown_loops: tuple[str, ...]
    """Sources of the loops whose number of turns is not known."""

    @property
    def wire(self) -> float:
        """Bytes that a device sends."""
        return sum(each.wire for each in self.collectives)


class Sum(NamedTuple):
    """Collectives of one kind."""

    instructions: int
    executed: float
    bytes: float


def traffic(text: str, devices: int, *, turns: float = 1.0) -> Traffic:
    """Reads what a program moves.

    Args:
      text: of the compiled program (`jax.stages.Compiled.as_text`).
      devices: of its mesh.
      turns: of a loop that does not say how many it has.

    Raises:
      ValueError: it is not the text of a compiled program.
    """
    program = read(text, turns=turns)
    found: dict[tuple[str, ...], dict[str, list[Collective]]] = {}
    cycles = 0.0
    kernels = 0.0
    for computation, instruction, times in program.executed():
        if computation not in program.fused:
            cycles += instruction.cycles * times
            kernels += times * ('custom_call_target="tpu_custom_call"' in instruction.rest)
        collective = _collective(program, computation, instruction, times, devices)
        if collective is None:
            continue
        # One that is started in one place and waited for in another is written in both, on one
        # channel; several of one place are as many.
        channel = re.search(r"channel_id=(\d+)", instruction.rest)
        name = channel[1] if channel else instruction.name
        key = (collective.kind, name, instruction.shape, collective.source)
        found.setdefault(key, {}).setdefault(computation, []).append(collective)
    once = [max(places.values(), key=lambda place: place[0].times) for places in found.values()]
    ordered = sorted(itertools.chain(*once), key=lambda each: -each.total)
    return Traffic(tuple(ordered), cycles, kernels, program.unknown_loops)


def by_kind(collectives: Iterable[Collective]) -> dict[str, Sum]:
    """Kind -> how many there are, how often they run, and their bytes."""
    sums: dict[str, Sum] = {}
    for each in collectives:
        old = sums.get(each.kind, Sum(0, 0.0, 0.0))
        sums[each.kind] = Sum(
            old.instructions + 1, old.executed + each.times, old.bytes + each.total
        )
    return sums


def _collective(
    program: Program, computation: str, each: Instruction, times: float, devices: int
) -> Collective | None:
    """What one instruction moves; None: nothing."""
    kind = each.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    made = arrays(each.shape)
    members = _members(each.rest)
    group = len(members) or _group(each.rest, devices)
    if each.opcode.endswith("-start") and each.shape.startswith("("):
        made = _made(kind, made)
    size = sum(shape.bytes for shape in made)
    others = program.computations[computation]
    if kind == "reduce-scatter":
        size = _read_by(each, others) or size * group
    elif kind == "all-reduce" and computation in program.fused:
        # That is how the TPU's compiler writes a reduce-scatter.
        cut = any(other.opcode == "dynamic-slice" for other in others)
        kind = "reduce-scatter" if cut else kind
    return Collective(kind, tuple(made), size, group, members, times, each.source)


def _made(kind: str, arrays: list[Shape]) -> list[Shape]:
    """What an instruction makes that is started in one place and waited for in another: of a sum
    the text has that alone; of a gather what it reads, then what it makes; of a permute one array
    of each, and two flags."""
    if kind == "all-reduce":
        return arrays
    if kind == "collective-permute":
        return arrays[1:2]
    return arrays[len(arrays) // 2 :]


def _read_by(instruction: Instruction, others: Sequence[Instruction]) -> int:
    """Bytes of its operands, where their shapes are in its computation."""
    shapes = {other.name: other.shape for other in others}
    return sum(
        shape.bytes for name in instruction.operands for shape in arrays(shapes.get(name, ""))
    )


def _members(attributes: str) -> tuple[int, ...]:
    """The first group of a collective: listed, or cut from a grid of all devices."""
    if written := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return tuple(map(int, written[1].split(",")))
    grid = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if grid is None:
        return ()
    sides = [int(side) for side in grid[3].split(",")]
    numbers = np.arange(math.prod(sides)).reshape(sides)
    if grid[4]:
        numbers = numbers.transpose([int(axis) for axis in grid[4].split(",")])
    return tuple(map(int, numbers.reshape(int(grid[1]), int(grid[2]))[0]))


def _group(attributes: str, devices: int) -> int:
    """Devices that take part together in a collective."""
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}", attributes):
        sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        # An axis, or a part of one: 'axis_0':(2)4.
        taken = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part) if part else sizes.get(axis, 1) for axis, part in taken)
    return devices
