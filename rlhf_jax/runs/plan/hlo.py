"""The text of a compiled program (``compiled.as_text()``), read: instructions by computation, and
how often each computation runs.

Loops that count, such as those of `lax.scan`, are followed: their number is in the text. One whose
end depends on data has none and is named; the caller says how many turns to count. All branches of
a choice count.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

_BITS = {"pred": 8, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "c64": 64, "c128": 128, "bf16": 16}
_ARRAY = re.compile(r"\b([a-z]+\d+\w*|pred)\[([\d,]*)\]")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_ASSIGNMENT = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"([\w\-]+)\((.*)$")
_CALLS = re.compile(
    r"(calls|to_apply|body|condition|branch_computations|called_computations|true_computation|"
    r"false_computation)=\{?(%[\w.\-]+(?:, ?%[\w.\-]+)*)"
)
_NO_ESTIMATE = 2**62
"""Cycles above this are a compiler's word for not knowing."""


class Shape(NamedTuple):
    """An array of a program."""

    dtype: str
    """As the text has it: "bf16", "f32", "pred"."""
    dims: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size, without the padding of its layout."""
        bits = _BITS.get(self.dtype) or int(re.sub(r"\D.*", "", self.dtype.lstrip("abcfsu")) or 8)
        return math.prod(self.dims) * bits // 8


class Instruction(NamedTuple):
    """``name = shape opcode(operands), attributes``."""

    name: str
    shape: str
    """Of the result; several in brackets."""
    opcode: str
    rest: str
    """Operands and attributes."""

    @property
    def operands(self) -> list[str]:
        """Names."""
        return re.findall(r"%([\w.\-]+)", self.rest[: _closing(self.rest, 1)])

    @property
    def source(self) -> str:
        """Where in the Python program it comes from, as JAX names it."""
        return _first(r'op_name="([^"]*)"', self.rest)

    @property
    def cycles(self) -> int:
        """Of the chip, as the TPU compiler estimates; 0: it does not say."""
        found = int(_first(r'"estimated_cycles":"(\d+)"', self.rest) or 0)
        return 0 if found > _NO_ESTIMATE else found

    @property
    def calls(self) -> list[tuple[str, str]]:
        """(role, computation) of those that it runs."""
        return [
            (role, name.strip().lstrip("%"))
            for role, names in _CALLS.findall(self.rest)
            for name in names.split(",")
        ]


class Program(NamedTuple):
    """A compiled program, read."""

    computations: Mapping[str, Sequence[Instruction]]
    times: Mapping[str, float]
    """How often each computation runs in a call of the program."""
    fused: frozenset[str]
    """Computations that are the inside of one instruction."""
    unknown_loops: tuple[str, ...]
    """Sources of the loops whose number of turns is not in the text."""

    def executed(self) -> Iterator[tuple[str, Instruction, float]]:
        """(computation, instruction, times) of everything that runs."""
        for name, instructions in self.computations.items():
            if times := self.times.get(name):
                for instruction in instructions:
                    yield name, instruction, times

    @property
    def shapes(self) -> frozenset[Shape]:
        """Every array that it makes, also inside of one instruction."""
        texts = {each.shape for instructions in self.computations.values() for each in instructions}
        return frozenset(shape for text in texts for shape in arrays(text))


def arrays(shape: str) -> list[Shape]:
    """The arrays of a shape, which may be several in brackets."""
    return [
        Shape(dtype, tuple(int(size) for size in dims.split(",") if size))
        for dtype, dims in _ARRAY.findall(shape)
    ]


def read(text: str, *, turns: float = 1.0) -> Program:
    """Reads the text of a compiled program.

    Args:
      text: of `jax.stages.Compiled.as_text`.
      turns: of a loop that does not say how many it has.

    Raises:
      ValueError: there is no entry: it is the text of something else.
    """
    computations: dict[str, list[Instruction]] = {}
    entry = current = None
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = head[2]
            computations[current] = []
            entry = current if head[1] else entry
        elif current is not None and (found := _ASSIGNMENT.match(line)):
            name, rest = found.groups()
            end = _closing(rest) + 1 if rest.startswith("(") else rest.find(" ")
            if call := _OPCODE.match(rest[end:].lstrip()):
                computations[current].append(Instruction(name, rest[:end], *call.groups()))
    if entry is None:
        raise ValueError("the text has no ENTRY computation: it is not that of a compiled program")
    times, unknown = _executions(computations, entry, turns)
    fused = frozenset(
        name
        for instructions in computations.values()
        for each in instructions
        if each.opcode == "fusion"
        for _, name in each.calls
    )
    return Program(computations, times, fused, unknown)


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""


def _closing(text: str, depth: int = 0) -> int:
    """Index of the bracket that closes the first open one."""
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return index
    return len(text)


def _executions(
    computations: Mapping[str, Sequence[Instruction]], entry: str, otherwise: float
) -> tuple[dict[str, float], tuple[str, ...]]:
    """(times that each computation runs, sources of the loops of unknown length)."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen:
            return
        seen.add(name)
        for each in computations.get(name, ()):
            for _, called in each.calls:
                visit(called)
        order.append(name)

    visit(entry)
    times: dict[str, float] = defaultdict(float, {entry: 1.0})
    unknown = []
    # Callers come before what they call.
    for name in reversed(order):
        for each in computations.get(name, ()):
            turns = 1.0
            if each.opcode == "while":
                counted = _turns(computations, each)
                turns = otherwise if counted is None else counted
                if counted is None:
                    unknown.append(each.source or each.name)
            for _, called in each.calls:
                times[called] += times[name] * turns
    return dict(times), tuple(unknown)


def _turns(computations: Mapping[str, Sequence[Instruction]], loop: Instruction) -> int | None:
    """Turns of a loop; None: they are not in the text."""
    if known := _first(r'known_trip_count[^}]*?"?n"?:\s*"?(\d+)', loop.rest):
        return int(known)
    # Loops of JAX start at 0 and step by 1, so the bound that the condition compares with is the
    # number of turns. The comparison may be fused.
    todo = [dict(loop.calls)["condition"]]
    seen: set[str] = set()
    bounds = []
    compares = False
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for each in computations.get(name, ()):
            value = _first(r"^(\d+)\)", each.rest)
            if each.opcode == "constant" and value and re.match(r"[su]\d+\[\]", each.shape):
                bounds.append(int(value))
            compares |= each.opcode == "compare"
            todo += [called for _, called in each.calls]
    return max(bounds) if bounds and compares else None
