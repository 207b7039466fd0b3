"""Orbax's manager of a checkpoint folder, and what interrupted and failed saves leave there."""

import logging
import shutil

import orbax.checkpoint as ocp

from rlhf_jax import cloud
from rlhf_jax.cloud import Place
from rlhf_jax.io.stored import is_complete, reading
from rlhf_jax.sharding.processes import is_leader

_log = logging.getLogger(__name__)
_UNFINISHED = "*.orbax-checkpoint-tmp*"


def open_manager(directory: Place, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    """Opens a folder whose steps hold the items `params`, `rest` and `meta`."""
    handlers = {
        "params": ocp.StandardCheckpointHandler(),
        "rest": ocp.StandardCheckpointHandler(),
        "meta": ocp.JsonCheckpointHandler(),
    }
    with reading(directory):
        return ocp.CheckpointManager(directory, options=options, item_handlers=handlers)


def remove_unfinished(directory: Place) -> None:
    """Before the first save only: for a reader, another process may be saving the folder."""
    if not is_leader():
        return
    # orbax's own cleanup logs errors and leaves folders
    for stale in _unfinished(directory):
        _log.warning("removing %s: a checkpoint that was interrupted while being saved", stale.name)
        _remove(stale)


def discard_failed(directory: Place) -> None:
    """Removes what a failed save leaves: its room is needed for the next attempt."""
    # A bucket has room, and its failure may be the reason; the next start removes what is left.
    if is_leader() and not cloud.is_bucket(directory):
        for stale in _unfinished(directory):
            _remove(stale)


def _unfinished(directory: Place) -> list[Place]:
    """Checkpoints that were not saved to their end: on a disk these have names of their own."""
    if not cloud.is_bucket(directory):
        return list(directory.glob(_UNFINISHED))
    if not directory.is_dir():
        return []
    return [
        child for child in directory.iterdir() if child.name.isdigit() and not is_complete(child)
    ]


def _remove(folder: Place) -> None:
    if cloud.is_bucket(folder):
        folder.rmtree(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
