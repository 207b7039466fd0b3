"""What a compiled program does, read from its text: collectives, kernels, estimated cycles.

The text is XLA's optimized HLO (`jax.stages.Compiled.as_text`). A loop runs its body many times, so
everything is counted as often as it runs: `jax.lax.scan` and `fori_loop` leave the number of their
iterations in the text. A loop that ends when its data say so has none: the caller says how often.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16}
"""Of types whose name does not end in their number of bits."""
_ARRAY = re.compile(r"\b(pred|bf16|[sufc]\d+\w*)\[([\d,]*)\]")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_ASSIGNED = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|branch_computations|called_computations|true_computation"
    r"|false_computation)=\{?(%[\w.\-]+(?:, ?%[\w.\-]+)*)"
)
_TRIPS = re.compile(r'known_trip_count[^}]*?n"?:\s*"?(\d+)')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_SOURCE = re.compile(r'op_name="([^"]*)"')
_MOST_CYCLES = 2**50
"""More than this, of one instruction, is no estimate: some have the largest integer there is."""


class Collective(NamedTuple):
    """One collective, with how often it runs."""

    kind: str
    """One of `KINDS`. A sum of which every device keeps its part is "reduce-scatter", also where
    the backend writes it as a sum and a slice in one fusion."""
    dtype: str
    shape: tuple[int, ...]
    """Of the whole array: the result of a gather, what goes into a scatter. Of several arrays the
    largest."""
    bytes: int
    """Of all its arrays, whole, each time."""
    group: int
    """Devices that take part together."""
    times: float
    source: str
    """What it was made for: the operation's name in the traced program."""

    @property
    def wire(self) -> float:
        """Bytes that one device must send each time, at least (rings; Chan et al. 2007)."""
        others = (self.group - 1) / self.group
        factor = {"all-reduce": 2 * others, "all-gather": others, "reduce-scatter": others}
        return self.bytes * factor.get(self.kind, 1.0)


class Facts(NamedTuple):
    """What one device does in one call of a program."""

    collectives: tuple[Collective, ...]
    cycles: float
    """Estimated by the compiler, collectives left out; 0: it does not say (only that for TPUs
    does)."""
    kernels: float
    """Calls of kernels of one's own (Pallas), for which the compiler has no estimate."""
    open_loops: tuple[str, ...]
    """Sources of loops whose number of iterations is not in the text."""

    @property
    def wire(self) -> float:
        """Bytes that one device must send, at least."""
        return sum(each.wire * each.times for each in self.collectives)

    def by_kind(self) -> dict[str, tuple[float, float]]:
        """Kind -> (times, bytes of whole arrays), the largest first."""
        found: dict[str, tuple[float, float]] = {}
        for each in self.collectives:
            times, size = found.get(each.kind, (0.0, 0.0))
            found[each.kind] = (times + each.times, size + each.bytes * each.times)
        return dict(sorted(found.items(), key=lambda item: -item[1][1]))


class _Instruction(NamedTuple):
    """``name = shape opcode(operands), attributes``."""

    name: str
    shape: str
    opcode: str
    operands: str
    attributes: str

    def called(self) -> list[tuple[str, str]]:
        """(how, computation) of what it calls."""
        return [
            (how, name.strip().lstrip("%"))
            for how, names in _CALLED.findall(self.attributes)
            for name in names.split(",")
        ]


_Program = dict[str, list[_Instruction]]


def read_compiled(text: str, devices: int, *, trips: float = 1.0) -> Facts:
    """Reads a program.

    Args:
      text: optimized HLO.
      devices: that it runs on: those of a collective that names no groups.
      trips: how often a loop runs that does not say.
    """
    program, entry = _parse(text)
    times, open_loops = _executions(program, entry, trips)
    fused = {
        name
        for instructions in program.values()
        for each in instructions
        if each.opcode == "fusion"
        for how, name in each.called()
        if how == "calls"
    }
    found: dict[tuple[str, str], Collective] = {}
    cycles = 0.0
    kernels = 0.0
    for name, instructions in program.items():
        if not times[name]:
            continue
        shapes = {each.name: each.shape for each in instructions}
        slices = name in fused and any(each.opcode == "dynamic-slice" for each in instructions)
        for each in instructions:
            if name not in fused:
                own = _number(_CYCLES, each.attributes)
                cycles += own * times[name] if own < _MOST_CYCLES else 0.0
                kernels += times[name] * ('custom_call_target="tpu_custom_call"' in each.attributes)
            one = _collective(each, shapes, slices=slices, times=times[name], devices=devices)
            if one is None:
                continue
            # A collective in several pieces (start and done, a fusion and what calls it) has one
            # channel.
            channel = re.search(r"channel_id=(\d+)", each.attributes)
            key = (one.kind, each.name if channel is None else channel.group(1))
            if key not in found or found[key].times < one.times:
                found[key] = one
    largest = sorted(found.values(), key=lambda one: -one.bytes * one.times)
    return Facts(tuple(largest), cycles, kernels, tuple(open_loops))


def _parse(text: str) -> tuple[_Program, str]:
    """(computation -> its instructions, the one that the program begins with)."""
    program: _Program = {}
    entry = ""
    current = ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = head.group(2)
            program[current] = []
            entry = current if head.group(1) else entry
        elif current and (assigned := _ASSIGNED.match(line)):
            name, rest = assigned.groups()
            end = _closing(rest) + 1 if rest.startswith("(") else rest.find(" ")
            call = re.match(r"\s*([\w\-]+)(\(.*)$", rest[end:])
            if call:
                opcode, behind = call.groups()
                stop = _closing(behind) + 1
                program[current].append(
                    _Instruction(name, rest[:end], opcode, behind[:stop], behind[stop:])
                )
    return program, entry


def _closing(text: str) -> int:
    """Where the bracket closes that opens first."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return place
    return len(text)


def _executions(
    program: _Program, entry: str, trips: float
) -> tuple[defaultdict[str, float], list[str]]:
    """(computation -> times that it runs, sources of the loops of unknown length)."""
    times: defaultdict[str, float] = defaultdict(float, {entry: 1.0})
    open_loops = []
    for name in _callers_first(program, entry):
        for each in program[name]:
            runs: float | None = 1.0
            if each.opcode == "while":
                runs = _trips(program, each)
                if runs is None:
                    source = _SOURCE.search(each.attributes)
                    open_loops.append(source.group(1) if source else each.name)
            for _, called in each.called():
                times[called] += times[name] * (trips if runs is None else runs)
    return times, open_loops


def _callers_first(program: _Program, entry: str) -> Iterator[str]:
    """All computations that run, each behind all that call it."""
    done: list[str] = []
    seen: set[str] = set()
    # Without recursion: programs of many layers nest deeply.
    todo: list[tuple[str, bool]] = [(entry, False)]
    while todo:
        name, is_left = todo.pop()
        if is_left:
            done.append(name)
        elif name not in seen:
            seen.add(name)
            todo.append((name, True))
            todo += [
                (called, False)
                for each in program.get(name, [])
                for _, called in each.called()
                if called in program
            ]
    return reversed(done)


def _trips(program: _Program, loop: _Instruction) -> float | None:
    """Iterations of a loop that counts; None: it does not say how many.

    A backend that does not write them leaves the bound in the condition, where it is the one
    constant that the counter, which starts at 0, is compared with.
    """
    if known := _TRIPS.search(loop.attributes):
        return float(known.group(1))
    todo = [name for how, name in loop.called() if how == "condition"]
    bounds: set[int] = set()
    compares = 0
    while todo:
        for each in program.get(todo.pop(), []):
            value = re.match(r"\((\d+)\)", each.operands)
            if each.opcode == "constant" and value and re.match(r"[su]\d+\[\]", each.shape):
                bounds.add(int(value.group(1)))
            compares += each.opcode == "compare"
            todo += [called for _, called in each.called()]
    return float(bounds.pop()) if len(bounds) == 1 and compares == 1 else None


def _collective(
    each: _Instruction, shapes: dict[str, str], *, slices: bool, times: float, devices: int
) -> Collective | None:
    """What an instruction moves; None: nothing, or another instruction says it."""
    kind = each.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    arrays = _arrays(each.shape)
    if each.opcode.endswith("-start") and each.shape.startswith("("):
        # (what goes in, what comes out, ...): the larger one is whole.
        arrays = [max(arrays, key=_bytes)]
    group = _group(each.attributes, devices)
    if kind == "reduce-scatter":
        names = re.findall(r"%([\w.\-]+)", each.operands)
        arrays = [array for name in names for array in _arrays(shapes.get(name, ""))] or arrays
    elif kind == "all-reduce" and slices:
        kind = "reduce-scatter"
    if not arrays:
        return None
    dtype, shape = max(arrays, key=_bytes)
    source = _SOURCE.search(each.attributes)
    return Collective(
        kind,
        dtype,
        shape,
        bytes=round(sum(map(_bytes, arrays))),
        group=group,
        times=times,
        source=source.group(1) if source else "",
    )


def _arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """(dtype, dimensions) of every array of a shape, which may be a tuple."""
    return [
        (dtype, tuple(int(size) for size in sizes.split(",") if size))
        for dtype, sizes in _ARRAY.findall(shape)
    ]


def _bytes(array: tuple[str, tuple[int, ...]]) -> float:
    dtype, sizes = array
    bits = _BITS.get(dtype)
    if bits is None:
        number = re.match(r"[a-z]+(\d+)", dtype)
        bits = int(number.group(1)) if number else 0
    return math.prod(sizes) * bits / 8


def _group(attributes: str, devices: int) -> int:
    """Devices of one group: listed, as a grid (`[groups, size]<=[...]`), or by axes of a mesh."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(listed.group(1).split(","))
    if grid := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(grid.group(1))
    if axes := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes.group(1))}
        named = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", axes.group(2))
        return math.prod(int(part) if part else sizes.get(name, 1) for name, part in named)
    return devices


def _number(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.search(text)
    return int(found.group(1)) if found else 0
