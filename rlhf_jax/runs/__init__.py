"""Whole runs: `train`, `evaluate`, `export`, `compare` and the embedded comparison of the
quickstart. Everything here puts parts together that other rooms define."""

from rlhf_jax.runs.compare import Comparison, compare
from rlhf_jax.runs.evaluate import evaluate
from rlhf_jax.runs.export import export
from rlhf_jax.runs.quickstart import quickstart_config
from rlhf_jax.runs.train import RunResult, train

__all__ = [
    "Comparison",
    "RunResult",
    "compare",
    "evaluate",
    "export",
    "quickstart_config",
    "train",
]
