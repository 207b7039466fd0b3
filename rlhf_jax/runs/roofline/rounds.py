"""What is measured of any run: a round of its programs, and the pieces that offline and online
rounds share."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
from jax.sharding import Mesh

from rlhf_jax.models import ModelConfig
from rlhf_jax.runs.footprint import tree_bytes
from rlhf_jax.runs.offline import jitted
from rlhf_jax.runs.roofline.watched import Watched
from rlhf_jax.runs.useful.passes import Pass
from rlhf_jax.runs.useful.work import Content, Stage, flops_of
from rlhf_jax.sharding import replicated
from rlhf_jax.training import TrainState, UpdateStep
from rlhf_jax.types import Trees


class Sample(NamedTuple):
    """What one part of a round took, and what it had to do."""

    name: str
    seconds: float
    stages: tuple[Stage, ...] = ()
    """None: nothing that a roofline knows."""
    padding: float | None = None
    """Share of the places that hold no token; None: there are no places."""


class Rounds(Protocol):
    """The programs of a run on its own data, again and again."""

    mesh: Mesh
    model: ModelConfig
    """Of the policy."""
    places: int
    """Tokens that a layer sees at a time in the update."""
    programs: dict[str, Watched]
    """By the name of the sample that they belong to."""

    def round(self, number: int) -> list[Sample]:
        """Runs every program once, on the data of a training step.

        Args:
          number: of the step, from 0.
        """
        ...


def named(wanted: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Which programs are measured.

    Args:
      wanted: by the user; nothing: all.
      names: of those that the run has.

    Raises:
      ValueError: one that the run does not have.
    """
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ValueError(
            f"--programs={unknown[0]} is none of this run's: it has {', '.join(names)}"
        )
    return tuple(wanted) or tuple(names)


class Updater:
    """The run's update step, its state, and what it must do."""

    def __init__(self, update: UpdateStep, begun: Any, frozen: Trees, mesh: Mesh) -> None:
        """Compiles nothing yet.

        Args:
          update: of `make_update`.
          begun: the state to begin with; consumed.
          frozen: trees that are read and not trained.
          mesh: of the run.
        """
        self.state: TrainState = begun.train
        self.frozen = frozen
        self.program = Watched(jitted(update, shardings=(begun.shardings, replicated(mesh))))

    def sample(
        self, batch: Any, passes: Sequence[Pass], content: Content, *, epochs: int, updates: int
    ) -> Sample:
        """Makes a step on a batch.

        Args:
          batch: on the device.
          passes: of one computation of the loss.
          content: of the batch.
          epochs: passes over it.
          updates: of the optimizer.
        """
        self.state, metrics = self.program(self.state, self.frozen, batch)
        (seconds,) = self.program.take()
        moved = (self.state.params, self.state.opt_state)
        # Parameters and moments are read and written once, whatever else happens.
        traffic = updates * (2 * tree_bytes(moved) + tree_bytes(dict(self.frozen)))
        stage = Stage(epochs * flops_of(passes, content), traffic)
        return Sample("update", seconds, (stage,), float(metrics["data/padding"]))


def score_stage(passes: Sequence[Pass], content: Content, trees: Trees) -> Stage:
    """What a score must do: its trees are read at least once."""
    roles = {each.role for each in passes}
    read = sum(tree_bytes(tree) for role, tree in trees.items() if role in roles)
    return Stage(flops_of(passes, content), read)


def on_host(batch: Any) -> Any:
    """A batch as NumPy arrays."""
    return jax.device_get(batch)
