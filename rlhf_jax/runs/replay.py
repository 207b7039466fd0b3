"""Recorded training batches: written as the update gets them, and fed to it again.

A recorded batch is a file of arrays by field (`PolicyBatch`), so an update can be debugged, timed
alone or reported without the sampler, the rewards and the data.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.sharding import Mesh

from rlhf_jax.errors import TrainingError
from rlhf_jax.loops.collect import Collected
from rlhf_jax.loops.groups import Rollouts, empty_groups
from rlhf_jax.sharding import fetch, place_batch
from rlhf_jax.sharding.processes import from_leader
from rlhf_jax.types import Params, PolicyBatch, Room, Trees


def recorded(folder: str | None) -> Callable[[PolicyBatch, int], None] | None:
    """What writes a batch to a folder; None: nothing is recorded."""
    if folder is None:
        return None
    root = pathlib.Path(folder)

    def write(batch: PolicyBatch, step: int) -> None:
        # The room that it is packed into is the run's, not the batch's: static, and no array.
        fields = {
            name: value
            for name, value in batch._replace(room=None)._asdict().items()
            if value is not None
        }
        arrays = fetch(fields)
        from_leader("recorded batch", lambda: keep(arrays, step))

    def keep(arrays: dict[str, Any], step: int) -> None:
        root.mkdir(parents=True, exist_ok=True)
        path = file_of(root, step)
        unfinished = path.with_suffix(".tmp.npz")
        np.savez(unfinished, **arrays)
        # Whole or not there: a run may be killed at any moment.
        unfinished.replace(path)

    return write


def file_of(folder: pathlib.Path, step: int) -> pathlib.Path:
    """The file of a step's batch; steps count from 0, those made before it."""
    return folder / f"batch_{step:08d}.npz"


def read_batch(folder: str | pathlib.Path, step: int) -> PolicyBatch:
    """A recorded batch.

    Args:
      folder: `rollout.record` of the run that made it.
      step: steps made before it.

    Returns:
      NumPy arrays.

    Raises:
      TrainingError: there is none of this step.
    """
    path = file_of(pathlib.Path(folder), step)
    if not path.is_file():
        kept = len(list(pathlib.Path(folder).glob("batch_*.npz")))
        raise TrainingError(
            f"rollout.replay={folder} holds no batch of step {step} ({path.name}; it has {kept}); "
            "set training.max_steps to what it holds, or record more"
        )
    with np.load(path, allow_pickle=False) as held:
        fields: dict[str, Any] = {name: held[name] for name in held.files}
    unknown = sorted(fields.keys() - set(PolicyBatch._fields))
    if unknown:
        raise TrainingError(f"{path} holds {unknown[0]!r}, which is no field of a batch")
    return PolicyBatch(**fields)


class Replay:
    """In place of prompts, sampler, grader and score: the batches of a folder, by step."""

    def __init__(self, folder: str, room: Room | None = None) -> None:
        self._folder = folder
        self._room = room

    def collect(
        self, params: Params, rollouts: Rollouts, *, step: int, stopped: Callable[[], bool]
    ) -> Collected:
        """Nothing is sampled; the groups only stand for the batch of the step."""
        if stopped():
            return Collected(None, rollouts, {}, "stopped")
        batch = read_batch(self._folder, step)
        size = {"group_size": 1, "width": 1, "num_rewards": 0}
        groups = empty_groups(1, **size)._replace(length=np.array([[batch.mask.sum()]], np.int32))
        return Collected(groups, rollouts, {})

    def to_device(self, mesh: Mesh) -> Callable[[Any, int], PolicyBatch]:
        """(ignored, step) -> the recorded batch in its shards."""

        def placed(groups: Any, step: int) -> PolicyBatch:
            batch = read_batch(self._folder, step)
            room = self._room
            longest = int(batch.mask.sum(axis=1).max())
            if room is not None and (longest > room.longest or len(batch.mask) % room.group):
                raise TrainingError(
                    f"rollout.replay={self._folder}: {len(batch.mask)} rows of up to {longest} "
                    f"tokens are not what this run packs (groups of {room.group}, up to "
                    f"{room.longest} tokens); set algorithm and rollout as they were recorded, or "
                    "training.pack=false"
                )
            return place_batch(batch._replace(room=room), mesh)

        return placed

    def score(self, trained: Trees, frozen: Trees, batch: PolicyBatch) -> PolicyBatch:
        """The batch was scored when it was recorded."""
        return batch
