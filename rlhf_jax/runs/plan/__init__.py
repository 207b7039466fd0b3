"""`plan(config, machine)`: what a run would hold, move and take on a machine that is not there.

The programs of a training step are traced on shapes (`programs`, `sampling`), compiled by the
machine's own compiler where it is installed (`machines`), and their text is read (`hlo`,
`collectives`): bytes, collectives, the compiler's estimate of cycles (`phases`). `search` compares
meshes. Nothing is loaded, nothing is run, and no figure was measured: a plan says what cannot work
and what limits what does.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from rlhf_jax.config import Config
from rlhf_jax.runs.footprint import Footprint, Part, footprint
from rlhf_jax.runs.plan.advice import warnings_of
from rlhf_jax.runs.plan.collectives import Collective
from rlhf_jax.runs.plan.machines import Devices, Machine, devices_of, parse_machine
from rlhf_jax.runs.plan.microbatches import settled
from rlhf_jax.runs.plan.phases import Phase, compile_phases
from rlhf_jax.runs.plan.programs import Planned, plan_programs
from rlhf_jax.runs.plan.search import candidates
from rlhf_jax.sharding import MeshConfig, make_mesh
from rlhf_jax.target import Target, compiling_for

__all__ = ["Machine", "Phase", "Plan", "Tried", "parse_machine", "plan"]

COMPARED = 3
"""Meshes whose updates are compiled in a search."""


class Tried(NamedTuple):
    """A mesh of a search."""

    mesh: dict[str, int]
    update: Phase


class Plan(NamedTuple):
    """A run on a machine that is not there."""

    machine: Machine
    compiler: str
    mesh: dict[str, int]
    parts: tuple[Part, ...]
    """Expected bytes of one device by role, as in the log of a run."""
    phases: tuple[Phase, ...]
    tokens: int
    """Of a step: of all rows, online of all completions."""
    warnings: tuple[str, ...]
    tried: tuple[Tried, ...] = ()

    @property
    def peak(self) -> int:
        """Bytes of one device, of the phase that needs most."""
        return max(phase.peak for phase in self.phases)

    @property
    def fits(self) -> bool:
        """Whether every phase compiles and fits."""
        room = self.machine.chip.memory
        whole = all(not phase.problem for phase in self.phases)
        return whole and (not room or self.peak <= room)

    @property
    def step_seconds(self) -> tuple[float, float]:
        """Of a training step without the host's part (grading, tokenising, writing): where all
        that can overlap does, and where nothing does. 0: some program does not compile, or the
        rates of the machine are not known."""
        steps = [phase for phase in self.phases if phase.calls]
        if any(each.problem for each in steps):
            return 0.0, 0.0
        return sum(each.seconds for each in steps), sum(each.seconds_apart for each in steps)

    @property
    def utilisation(self) -> float:
        """Useful operations as a share of the peak rate (MFU), where everything overlaps."""
        seconds = self.step_seconds[0]
        useful = sum(phase.flops for phase in self.phases if phase.calls)
        return useful / seconds / self.machine.chips / self.machine.chip.flops if seconds else 0.0

    def plain(self) -> dict[str, Any]:
        """What JSON holds; bytes, seconds, operations."""
        low, high = self.step_seconds
        return {
            "machine": self.machine._asdict() | {"chip": _known(self.machine.chip._asdict())},
            "compiler": self.compiler,
            "mesh": self.mesh,
            "expected_bytes": {part.name: part.bytes for part in self.parts},
            "phases": [_plain(phase) for phase in self.phases],
            "peak_bytes": self.peak,
            "fits": self.fits,
            "step_seconds": [low, high],
            "tokens_per_step": self.tokens,
            "tokens_per_second": [
                self.tokens / seconds if seconds else 0 for seconds in (high, low)
            ],
            "mfu": self.utilisation,
            "warnings": list(self.warnings),
            "tried": [{"mesh": each.mesh, "update": _plain(each.update)} for each in self.tried],
        }


def plan(config: Config, machine: Machine | str, *, search: bool = False) -> Plan:
    """Plans a run for a machine that is not there.

    Every row is taken to be as long as the configuration allows, so times are those of the worst
    step. Loads no weights and reads no data; a folder of a model is asked for its config.json. Plan
    in a process of its own, as the command does: JAX is set to CPUs, and keeps what was traced for
    the machine.

    Args:
      config: a whole run.
      machine: that it is to run on, or its name (`parse_machine`).
      search: compile the update on a few meshes that should fit and plan for the best one, in place
        of the configuration's.

    Returns:
      A `Plan`.

    Raises:
      ValueError: a machine that is not known, a mesh that does not fit it, or anything that `train`
        refuses before it reads data; one line says why.
    """
    if isinstance(machine, str):
        machine = parse_machine(machine)
    # Nothing is run: an accelerator at hand, or a compiler that looks for one, is left alone.
    jax.config.update("jax_platforms", "cpu")
    found = devices_of(machine)
    if found.is_own:
        # What is compiled without a device can be kept, and not be read again without one.
        jax.config.update("jax_compilation_cache_dir", None)
    with compiling_for(Target(found.platform, machine.chip.memory or None)):
        tried: list[Tried] = []
        if search:
            for sizes in candidates(config, machine, found.devices)[:COMPARED]:
                planned, expected = _planned(_on(config, sizes), found)
                (update,) = compile_phases(planned, machine, expected, names=("update",))
                tried.append(Tried(sizes, update))
            room = machine.chip.memory or math.inf
            best = min(
                tried,
                key=lambda each: (
                    bool(each.update.problem),
                    each.update.peak > room,
                    each.update.seconds,
                ),
            )
            config = _on(config, best.mesh)
        planned, expected = _planned(config, found)
        phases = compile_phases(planned, machine, expected)
    return Plan(
        machine,
        found.compiler,
        {name: size for name, size in planned.mesh.shape.items()},
        expected.parts,
        phases,
        planned.tokens,
        warnings_of(planned, machine, phases, is_own=found.is_own),
        tuple(tried),
    )


def _on(config: Config, sizes: dict[str, int]) -> Config:
    mesh = MeshConfig(**sizes, replicate=config.mesh.replicate)
    return dataclasses.replace(config, mesh=mesh)


def _planned(config: Config, found: Devices) -> tuple[Planned, Footprint]:
    mesh: Mesh = make_mesh(config.mesh, devices=list(found.devices))
    planned = plan_programs(settled(config, mesh), mesh)
    return planned, footprint(planned.config, mesh, planned.work)


def _known(rates: dict[str, Any]) -> dict[str, Any]:
    """Without rates that nobody knows, which JSON cannot hold."""
    return {name: None if value == math.inf else value for name, value in rates.items()}


def _plain(phase: Phase) -> dict[str, Any]:
    def of(each: Collective) -> dict[str, Any]:
        arrays = [f"{array.dtype}{list(array.dims)}" for array in each.arrays]
        return each._asdict() | {"arrays": arrays}

    return phase._asdict() | {
        "collectives": {kind: total._asdict() for kind, total in phase.collectives.items()},
        "largest": [of(each) for each in phase.largest],
        "limit": phase.limit,
        "seconds": phase.seconds,
    }
