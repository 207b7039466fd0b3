"""Whole runs: `train`, `evaluate`, `export`, `load`, `complete`, `compare` and the embedded
comparison of the quickstart. Everything here puts parts together that other rooms define."""

from rlhf_jax.runs.compare import Comparison, compare
from rlhf_jax.runs.complete import Completions, complete
from rlhf_jax.runs.evaluate import evaluate
from rlhf_jax.runs.export import export
from rlhf_jax.runs.history import History
from rlhf_jax.runs.load import LoadedModel, load
from rlhf_jax.runs.quickstart import quickstart_config
from rlhf_jax.runs.result import RunResult
from rlhf_jax.runs.train import train

__all__ = [
    "Comparison",
    "Completions",
    "History",
    "LoadedModel",
    "RunResult",
    "compare",
    "complete",
    "evaluate",
    "export",
    "load",
    "quickstart_config",
    "train",
]
