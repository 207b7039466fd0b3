"""Drawing a run's metrics."""

import math
import os
import pathlib
from typing import Any

from rlhf_jax.io.sinks import MetricsError, read_metrics

PANELS = (
    "loss/total",
    "rewards/mean",
    "data/accuracy",
    "accuracy/greedy",
    "rewards/sampled",
    "length/mean",
    "policy/entropy",
    "kl/ref",
    "data/sampling_waste",
    "rewards/accuracy",
    "rewards/margin",
    "rewards/chosen",
    "rewards/rejected",
    "grad_norm",
    "lr",
    "tokens_per_second",
)
"""Metrics that get a panel when a run has them, in this order."""
SMOOTHING = 0.9


def plot_run(
    path: str | os.PathLike[str], out: str | os.PathLike[str] | None = None
) -> pathlib.Path:
    """Draw the metrics of a run, a panel each: training (thick: smoothed) and held-out values.

    Args:
        path: a metrics.jsonl or the run folder that holds it.
        out: the image; None: `metrics.png` beside the file.

    Returns:
        Where the image is.

    Raises:
        MetricsError: no such file, or nothing in it to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # heavy
    from matplotlib.figure import Figure

    path = pathlib.Path(path)
    rows = read_metrics(path)
    names = [name for name in PANELS if any(name in row for row in rows)]
    if not names:
        raise MetricsError(
            f"{path}: none of the metrics {', '.join(PANELS)} is in it, nothing to draw"
        )
    columns = min(3, len(names))
    lines = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4.5 * columns, 3.0 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for name, axes in zip(names, panels, strict=False):
        _draw(axes, name, rows)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    out = (
        pathlib.Path(out)
        if out is not None
        else (path if path.is_dir() else path.parent) / "metrics.png"
    )
    figure.savefig(out, dpi=110)
    return out


def _draw(axes: Any, name: str, rows: list[dict[str, Any]]) -> None:
    for split, colour in (("train", "tab:blue"), ("eval", "tab:orange")):
        points = [
            (row["step"], row[name])
            for row in rows
            if row["split"] == split and name in row and math.isfinite(row[name])
        ]
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        if split == "train" and len(values) > 20:
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            values = tuple(_smooth(values))
        axes.plot(
            steps,
            values,
            color=colour,
            marker="o" if split == "eval" else None,
            markersize=3,
            label=split,
        )
        axes.legend(fontsize=8)
    axes.set_title(name, fontsize=10)
    axes.set_xlabel("step", fontsize=8)
    axes.grid(alpha=0.3)


def _smooth(values: tuple[float, ...]) -> list[float]:
    """Exponential moving average, started without bias."""
    average = 0.0
    weight = 0.0
    smoothed = []
    for value in values:
        average = SMOOTHING * average + (1 - SMOOTHING) * value
        weight = SMOOTHING * weight + (1 - SMOOTHING)
        smoothed.append(average / weight)
    return smoothed
