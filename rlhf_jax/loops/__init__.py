"""Whole runs: `train`, `evaluate`, `export` and the embedded `quickstart`."""

from rlhf_jax.loops.errors import TrainingError
from rlhf_jax.loops.evaluate import evaluate
from rlhf_jax.loops.export import export
from rlhf_jax.loops.quickstart import QuickstartResult, quickstart
from rlhf_jax.loops.train import RunResult, train

__all__ = ["QuickstartResult", "RunResult", "TrainingError", "evaluate", "export", "quickstart", "train"]
