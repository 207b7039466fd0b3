"""Orbax's manager of a checkpoint folder, and what interrupted and failed saves leave there."""

import logging
import pathlib
import shutil

import orbax.checkpoint as ocp

from rlhf_jax.io.stored import reading
from rlhf_jax.sharding.processes import is_leader

_log = logging.getLogger(__name__)
_UNFINISHED = "*.orbax-checkpoint-tmp*"


def open_manager(
    directory: pathlib.Path, options: ocp.CheckpointManagerOptions
) -> ocp.CheckpointManager:
    """Opens a folder whose steps hold the items `params`, `rest` and `meta`."""
    handlers = {
        "params": ocp.StandardCheckpointHandler(),
        "rest": ocp.StandardCheckpointHandler(),
        "meta": ocp.JsonCheckpointHandler(),
    }
    with reading(directory):
        return ocp.CheckpointManager(directory, options=options, item_handlers=handlers)


def remove_unfinished(directory: pathlib.Path) -> None:
    """Before the first save only: for a reader, another process may be saving the folder."""
    if not is_leader():
        return
    # orbax's own cleanup logs errors and leaves folders
    for stale in directory.glob(_UNFINISHED):
        _log.warning("removing %s: a checkpoint that was interrupted while being saved", stale.name)
        shutil.rmtree(stale, ignore_errors=True)


def discard_failed(directory: pathlib.Path) -> None:
    """Removes what a failed save leaves: its room is needed for the next attempt."""
    if is_leader():
        for stale in directory.glob(_UNFINISHED):
            shutil.rmtree(stale, ignore_errors=True)
