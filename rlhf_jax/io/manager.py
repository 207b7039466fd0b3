"""Orbax's manager of a checkpoint folder, and what interrupted and failed saves leave there."""

import logging
import shutil
from typing import Any

import orbax.checkpoint as ocp

from rlhf_jax import cloud
from rlhf_jax.cloud import Place
from rlhf_jax.io.s3_arrays import TreeHandler
from rlhf_jax.io.stored import is_complete, is_s3, reading
from rlhf_jax.sharding.processes import is_leader

_log = logging.getLogger(__name__)
_UNFINISHED = "*.orbax-checkpoint-tmp*"


def options_for(directory: Place) -> dict[str, Any]:
    """What `CheckpointManagerOptions` must say of a place.

    In a bucket a folder is there when there is something in it, and cannot be renamed: a last file
    says that a checkpoint is complete. Orbax knows this of `gs://` alone.
    """
    if not is_s3(directory):
        return {"create": not cloud.is_bucket(directory)}
    return {
        "create": False,
        "atomicity_options": ocp.options.AtomicityOptions(
            mode=ocp.options.AtomicityMode.COMMIT_FILE
        ),
        "async_options": ocp.AsyncOptions(create_directories_asynchronously=False),
    }


def open_manager(directory: Place, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    """Opens a folder whose steps hold the items `params`, `rest` and `meta`."""
    arrays = TreeHandler if is_s3(directory) else ocp.StandardCheckpointHandler
    handlers = {
        "params": arrays(),
        "rest": arrays(),
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
