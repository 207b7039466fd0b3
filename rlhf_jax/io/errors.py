"""Errors about checkpoints and run folders."""

from rlhf_jax.errors import RlhfError


class CheckpointError(RlhfError, ValueError):
    """A checkpoint that is missing, damaged, does not fit, or cannot be written, in one line."""

    exit_code = 4


class RunFolderError(RlhfError, ValueError):
    """A run folder in which this run may not start or go on, in one line."""

    exit_code = 2


class UnreadableError(CheckpointError):
    """Files of a checkpoint are damaged or missing, as against a checkpoint that is not wanted."""
