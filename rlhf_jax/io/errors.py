"""Errors about checkpoints."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, does not fit, or cannot be written, in one line."""


class UnreadableError(CheckpointError):
    """Files of a checkpoint that are damaged or missing, as against one that is not what is
    wanted."""
