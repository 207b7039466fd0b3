"""What a run leaves on disk: checkpoints, metrics, logs, plots."""

from rlhf_jax.io.averages import averaged
from rlhf_jax.io.checkpoint import Checkpointer
from rlhf_jax.io.completions import (
    COMPLETION_COLUMNS,
    GREEDY,
    CompletionsWriter,
    Resumed,
)
from rlhf_jax.io.curves import plot_curves
from rlhf_jax.io.diagnosis import Diagnosis, diagnose
from rlhf_jax.io.errors import CheckpointError
from rlhf_jax.io.plots import plot_run
from rlhf_jax.io.progress import Part, Progress, shown_as
from rlhf_jax.io.run_folder import RunFolder, RunFolderError
from rlhf_jax.io.samples import log_samples
from rlhf_jax.io.sinks import (
    JsonlSink,
    MetricsError,
    Sink,
    TensorBoardSink,
    WandbSink,
    read_metrics,
    salvage_metrics,
)

__all__ = [
    "COMPLETION_COLUMNS",
    "GREEDY",
    "CheckpointError",
    "Checkpointer",
    "CompletionsWriter",
    "Diagnosis",
    "JsonlSink",
    "MetricsError",
    "Part",
    "Progress",
    "Resumed",
    "RunFolder",
    "RunFolderError",
    "Sink",
    "TensorBoardSink",
    "WandbSink",
    "averaged",
    "diagnose",
    "log_samples",
    "plot_curves",
    "plot_run",
    "read_metrics",
    "salvage_metrics",
    "shown_as",
]
