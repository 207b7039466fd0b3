"""What a run leaves on disk: checkpoints, metrics, plots."""

from rlhf_jax.io.checkpoint import Checkpointer, CheckpointError

__all__ = ["CheckpointError", "Checkpointer"]
