"""Reads collectives out of compiled HLO text."""

import re
from typing import NamedTuple

_OP = re.compile(
    r"=\s+(?P<result>\(?[^=]*?\)?)\s+"
    r"(?P<op>all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
_SHAPE = re.compile(r"[a-z]+[0-9]+\[([0-9,]*)\]")


class Collective(NamedTuple):
    op: str
    shapes: tuple[tuple[int, ...], ...]


def collectives(text: str) -> list[Collective]:
    """Every collective of a compiled module with the shapes of its results (one device's view)."""
    found = []
    for line in text.splitlines():
        match = _OP.search(line)
        if match:
            shapes = tuple(
                tuple(int(n) for n in dims.split(",") if n)
                for dims in _SHAPE.findall(match["result"])
            )
            found.append(Collective(match["op"], shapes))
    return found
