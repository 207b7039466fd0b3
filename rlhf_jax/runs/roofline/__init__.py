"""`roofline(config)`: the programs of a run, on its own data, held against what the machine can do.

A round runs every program of a training step once; before and after it the machine's rates are
measured in the same process, so that a machine whose speed changes changes both. `rounds` says what
a round is, `offline` and `online` are the two of them, `work` and `passes` count what a program has
to do, `machine` what the machine can, and `report` puts both together.
"""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

from jax.sharding import Mesh

from rlhf_jax.config import CheckpointConfig, Config
from rlhf_jax.runs.footprint import is_small
from rlhf_jax.runs.online import entered
from rlhf_jax.runs.plan.microbatches import settled
from rlhf_jax.runs.roofline.machine import make_machine
from rlhf_jax.runs.roofline.offline import OfflineRounds
from rlhf_jax.runs.roofline.online import OnlineRounds
from rlhf_jax.runs.roofline.report import Rate, Roofline, Row, make_report
from rlhf_jax.runs.roofline.rounds import Rounds, Sample
from rlhf_jax.training.allocator import retain_freed_memory

__all__ = ["Rate", "Roofline", "Row", "Sample", "roofline"]


def roofline(config: Config, *, repeats: int = 5, programs: Sequence[str] = ()) -> Roofline:
    """Measures the programs of a run, without training it.

    What `rlhf-jax train` would build is built; `run_dir` is neither read nor written: a run that
    would go on from a checkpoint is measured as it starts. The first round compiles and is not
    counted.

    Args:
      config: a whole run, of any algorithm.
      repeats: rounds that count, each on the data of another training step.
      programs: "score" and "update", online also "generate", "prefill", "decode" and "grade", as
        far as the run has them; none: all.

    Returns:
      A `Roofline`: rates in operations, bytes and seconds; its docstrings say what each is.

    Raises:
      ValueError: repeats below 1, a program that the run does not have, or anything that `train`
        would refuse; one line says why.
    """
    if repeats < 1:
        raise ValueError(f"--repeats={repeats} must be at least 1")
    if is_small(config):
        retain_freed_memory()
    with (
        tempfile.TemporaryDirectory(prefix="rlhf_jax-bench-") as folder,
        open_rounds(config, pathlib.Path(folder), programs) as rounds,
    ):
        rounds.round(0)
        dtype = config.model.compute_dtype or config.model.dtype
        machine = make_machine(rounds.mesh, rounds.model, tokens=rounds.places, dtype=dtype)
        looks = [machine.look()]
        samples: list[list[Sample]] = []
        for number in range(1, repeats + 1):
            samples.append(rounds.round(number))
            looks.append(machine.look())
        return make_report(describe(rounds.mesh), machine, looks, samples, rounds.programs)


@contextlib.contextmanager
def open_rounds(config: Config, folder: pathlib.Path, programs: Sequence[str]) -> Iterator[Rounds]:
    """Builds the run in a folder of its own.

    Args:
      config: a whole run.
      folder: takes the place of its `run_dir`.
      programs: to measure; none: all.
    """
    config = settled(config)
    moved = dataclasses.replace(config, run_dir=str(folder), checkpoint=CheckpointConfig())
    if not config.is_online:
        yield OfflineRounds(moved, folder, programs)
        return
    rounds = OnlineRounds(moved, folder, programs)
    with entered(rounds.grader):
        yield rounds


def describe(mesh: Mesh) -> str:
    """The devices of a mesh, in words."""
    device = mesh.devices.flat[0]
    count = f"{mesh.size} devices" if mesh.size > 1 else "1 device"
    return f"{count} of kind {device.device_kind} ({device.platform})"
