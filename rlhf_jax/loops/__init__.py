"""Whole runs: `train`, `evaluate`, `export`, `compare` and the embedded comparison of the
quickstart."""

from rlhf_jax.loops.compare import Comparison, compare
from rlhf_jax.loops.errors import TrainingError
from rlhf_jax.loops.evaluate import evaluate
from rlhf_jax.loops.export import export
from rlhf_jax.loops.quickstart import quickstart_config
from rlhf_jax.loops.train import RunResult, train

__all__ = [
    "Comparison",
    "RunResult",
    "TrainingError",
    "compare",
    "evaluate",
    "export",
    "quickstart_config",
    "train",
]
