"""`rlhf-jax plan`: what a run would need on a machine that is not there, as tables."""

import argparse
import dataclasses
import json
import pathlib
from typing import Any

from rlhf_jax.cli.files import check_folder
from rlhf_jax.cli.output import print_table, say
from rlhf_jax.config import Config, ConfigError

COLUMNS = (
    "program",
    "calls",
    "peak GB",
    "temp GB",
    "TFLOP",
    "compute s",
    "memory s",
    "network s",
    "limit",
    "compile s",
)
AXES = ("data", "fsdp", "tensor")


def plan(options: argparse.Namespace, config: Config) -> int:
    """Compiles and prints; with `--output` writes too.

    Returns:
      0; 1 where the run does not fit.

    Raises:
      ConfigError: `--mesh` cannot be read, or the file of `--output` cannot be written.
    """
    check_folder("output", options.output)
    from rlhf_jax.runs.plan import plan as plan_run  # heavy
    from rlhf_jax.sharding import MeshConfig

    if options.mesh is not None:
        sizes = read_mesh(options.mesh)
        mesh = MeshConfig(**sizes, replicate=config.mesh.replicate)
        config = dataclasses.replace(config, mesh=mesh)
    found = plan_run(config, options.device, search=options.search)
    show(options.config, found)
    if options.output is not None:
        text = json.dumps(found.plain(), indent=2) + "\n"
        pathlib.Path(options.output).write_text(text, encoding="utf-8")
        say(f"every figure: {options.output}")
    return 0 if found.fits else 1


def read_mesh(text: str) -> dict[str, int]:
    """`data=4,fsdp=16` as sizes; axes that are left out have size 1.

    Raises:
      ConfigError: an unknown axis, or no whole number.
    """
    sizes = dict.fromkeys(AXES, 1)
    for part in text.split(","):
        name, _, size = part.partition("=")
        if name.strip() not in AXES or not size.strip().isdecimal():
            raise ConfigError(f"--mesh={text}: write data=4,fsdp=16 (axes: {', '.join(AXES)})")
        sizes[name.strip()] = int(size)
    return sizes


def show(title: str, found: Any) -> None:
    """Tables of memory, of meshes that were tried, and of programs; then the step, and warnings."""
    chip = found.machine.chip
    say(f"{title} on {found.machine.describe()}, mesh {axes(found.mesh)}, by {found.compiler}")
    for each in found.tried:
        problem = f" ({each.update.problem})" if each.update.problem else ""
        say(
            f"tried {axes(each.mesh)}: update {each.update.seconds:.3g} s, "
            f"peak {gigabytes(each.update.peak)} GB{problem}"
        )
    parts = [(part.name, gigabytes(part.bytes)) for part in found.parts if part.bytes]
    print_table("expected on each device", ("role", "GB"), parts, numbers=1)
    print_table(
        "programs of a step, rows as long as they may be",
        COLUMNS,
        [row_of(phase) for phase in found.phases],
        numbers=len(COLUMNS) - 1,
    )
    rows = [
        (phase.name, kind, f"{total.executed:,.0f}", gigabytes(total.bytes))
        for phase in found.phases
        for kind, total in sorted(phase.collectives.items(), key=lambda item: -item[1].bytes)
    ]
    if rows:
        print_table("collectives of a call", ("program", "kind", "times", "GB"), rows, numbers=2)
    if chip.memory:
        verdict = "fits" if found.fits else "DOES NOT FIT"
        say(f"peak {gigabytes(found.peak)} of {gigabytes(chip.memory)} GB a device: {verdict}")
    low, high = found.step_seconds
    if low:
        say(
            f"step: {low:.3g} s where everything overlaps, {high:.3g} s where nothing does; "
            f"{found.tokens / high:,.0f} to {found.tokens / low:,.0f} tokens/s; "
            f"MFU {100 * found.utilisation:.0f} % (grading, tokenising and writing left out)"
        )
    for warning in found.warnings:
        say(f"warning: {warning}")


def row_of(phase: Any) -> list[str]:
    """One program."""
    calls = f"{phase.calls:,.0f}" if phase.calls else "once"
    if phase.problem:
        return [
            phase.name,
            calls,
            gigabytes(phase.peak),
            *["-"] * 6,
            f"{phase.compile_seconds:.0f}",
        ]
    times = (phase.compute, phase.memory, phase.network)
    return [
        phase.name,
        calls,
        gigabytes(phase.peak),
        gigabytes(phase.temporaries),
        teraflops(phase.flops),
        *(f"{seconds:.3g}" for seconds in times),
        phase.limit if any(times) else "-",
        f"{phase.compile_seconds:.0f}",
    ]


def teraflops(flops: float) -> str:
    """Three digits at least."""
    count = flops / 1e12
    return f"{count:,.0f}" if count >= 100 else f"{count:.3g}"


def axes(mesh: dict[str, int]) -> str:
    """`data=4 fsdp=16 tensor=1`."""
    return " ".join(f"{name}={size}" for name, size in mesh.items())


def gigabytes(size: float) -> str:
    """Three digits."""
    return f"{size / 1e9:.3g}"
