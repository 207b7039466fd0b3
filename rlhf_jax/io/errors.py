"""Errors about checkpoints."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, does not fit, or cannot be written, in one line."""


class UnreadableError(CheckpointError):
    """Files of a checkpoint are damaged or missing, as against a checkpoint that is not wanted."""
