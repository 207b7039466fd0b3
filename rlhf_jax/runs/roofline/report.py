"""What a roofline says: rates of the machine, and each program held against them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_jax.runs.roofline.machine import Look, Machine, fastest
from rlhf_jax.runs.roofline.rounds import Sample
from rlhf_jax.runs.roofline.timing import Timing, summarise
from rlhf_jax.runs.roofline.watched import Watched

RESTLESS = 1.25
"""Ratio of the fastest and the slowest look at a roof that an idle machine stays below."""


class Rate(NamedTuple):
    """One ability of the machine: operations or bytes per second over the looks."""

    name: str
    rate: Timing
    is_roof: bool
    """The fastest of its kind, by its median. A round is held against the fastest look around it,
    which is nearly always one at this probe."""


class Row(NamedTuple):
    """One program."""

    name: str
    time: Timing
    """Of all its calls in a round, seconds."""
    flops: float
    """Useful operations of a round, median."""
    bytes: float
    """That must pass through memory in a round, median."""
    flops_per_second: float
    """Useful ones."""
    of_products: float
    """The same as a share of the roof of products in its own round."""
    least: float
    """Seconds that the roofs allow, median."""
    of_limit: float
    """Share of the time that the roofs account for: 1 is the limit."""
    limit: str
    """Which roof that is for the larger part: "products", "memory", or "" where there is none."""
    padding: float | None
    compile_seconds: float | None
    """Of all shapes that came; None: it is no program."""
    shapes: int
    """So many programs that is: batches have several widths."""
    temporary: int | None
    """Bytes, of the largest shape."""
    peak: int | None
    """Bytes with arguments and results."""


class Roofline(NamedTuple):
    """Everything that was measured."""

    device: str
    repeats: int
    products: tuple[Rate, ...]
    memory: tuple[Rate, ...]
    rows: tuple[Row, ...]

    @property
    def is_restless(self) -> bool:
        """The machine's own rates varied so much that shares are no better than that."""
        roofs = [rate for rate in self.products + self.memory if rate.is_roof]
        return any(rate.rate.high > RESTLESS * rate.rate.low for rate in roofs)

    def plain(self) -> dict[str, Any]:
        """What JSON holds; seconds, bytes, operations and shares."""
        return {
            "device": self.device,
            "repeats": self.repeats,
            "products": [_plain(rate) for rate in self.products],
            "memory": [_plain(rate) for rate in self.memory],
            "programs": [_plain(row) for row in self.rows],
        }


def make_report(
    device: str,
    machine: Machine,
    looks: Sequence[Look],
    rounds: Sequence[Sequence[Sample]],
    programs: Mapping[str, Watched],
) -> Roofline:
    """Holds programs against the machine as it was in their own round.

    Args:
      device: in words.
      machine: whose probes were looked at.
      looks: before every round, and after the last.
      rounds: samples of each.
      programs: by the names of samples.
    """
    products = [look.products for look in looks]
    memory = [look.memory for look in looks]
    roofs = [(_around(products, number), _around(memory, number)) for number in range(len(rounds))]
    names = dict.fromkeys(sample.name for samples in rounds for sample in samples)
    rows = []
    for name in names:
        found = [
            (sample, roof)
            for samples, roof in zip(rounds, roofs, strict=True)
            for sample in samples
            if sample.name == name
        ]
        rows.append(_row(name, found, programs.get(name)))
    return Roofline(
        device,
        len(rounds),
        _rates([probe.name for probe in machine.products], products),
        _rates([probe.name for probe in machine.memory], memory),
        tuple(rows),
    )


def _rates(names: Sequence[str], looks: Sequence[tuple[float, ...]]) -> tuple[Rate, ...]:
    roof = fastest(looks)
    return tuple(
        Rate(name, summarise(rates), number == roof)
        for number, (name, rates) in enumerate(zip(names, zip(*looks, strict=True), strict=True))
    )


def _around(looks: Sequence[tuple[float, ...]], number: int) -> float:
    """The roof of a round: the fastest that was seen right before and after it."""
    return max(rate for look in looks[number : number + 2] for rate in look)


def _row(
    name: str, found: Sequence[tuple[Sample, tuple[float, float]]], program: Watched | None
) -> Row:
    flops = [sum(stage.flops for stage in sample.stages) for sample, _ in found]
    traffic = [sum(stage.bytes for stage in sample.stages) for sample, _ in found]
    seconds = [sample.seconds for sample, _ in found]
    least = [sum(stage.least(*roof) for stage in sample.stages) for sample, roof in found]
    by_products = sum(
        stage.least(*roof)
        for sample, roof in found
        for stage in sample.stages
        if stage.flops / roof[0] >= stage.bytes / roof[1]
    )
    limit = "products" if by_products >= sum(least) / 2 else "memory"
    pads = [sample.padding for sample, _ in found if sample.padding is not None]
    compiled = list(program.compiled.values()) if program is not None else []
    return Row(
        name,
        summarise(seconds),
        flops=summarise(flops).median,
        bytes=summarise(traffic).median,
        flops_per_second=_median_ratio(flops, seconds),
        of_products=_median_ratio(
            [each / roof[0] for each, (_, roof) in zip(flops, found, strict=True)], seconds
        ),
        least=summarise(least).median,
        of_limit=_median_ratio(least, seconds),
        limit=limit if sum(least) else "",
        padding=summarise(pads).median if pads else None,
        compile_seconds=program.compile_seconds if program is not None and compiled else None,
        shapes=len(compiled),
        temporary=max((each.temporary for each in compiled), default=None),
        peak=max((each.peak for each in compiled), default=None),
    )


def _median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    ratios = [a / b if b else 0.0 for a, b in zip(above, below, strict=True)]
    return summarise(ratios).median


def _plain(record: Rate | Row) -> dict[str, Any]:
    return {
        name: value._asdict() if isinstance(value, Timing) else value
        for name, value in record._asdict().items()
    }
