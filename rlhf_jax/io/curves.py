"""Drawing a comparison: learning curves of several runs over time and over steps."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Curve = Sequence[tuple[float, float, float]]
"""(step, seconds, value) of every measurement of one run."""


def plot_curves(
    curves: Mapping[str, Sequence[Curve]],
    out: str | os.PathLike[str],
    *,
    metric: str,
    level: float | None = None,
) -> pathlib.Path:
    """Draw what runs reached, over seconds and steps: a thin line a seed, a thick one their mean.

    Args:
        curves: name -> a curve per seed. Curves of one name are averaged where they have the same
          steps.
        out: the image.
        metric: what the values are.
        level: a value to mark by a dashed line.

    Returns:
        Where the image is.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # heavy
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, index, label in zip(panels, (1, 0), ("seconds of training", "step"), strict=True):
        for number, (name, seeds) in enumerate(curves.items()):
            _draw(
                axes,
                [np.array(curve, float) for curve in seeds if curve],
                index,
                f"C{number}",
                name,
            )
        if level is not None:
            axes.axhline(level, color="grey", linestyle="--", linewidth=0.8)
        axes.set_xlabel(label, fontsize=9)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f"held-out {metric}", fontsize=9)
    panels[1].legend(fontsize=8)
    out = pathlib.Path(out)
    figure.savefig(out, dpi=110)
    return out


def _draw(axes: Any, seeds: list[np.ndarray], index: int, colour: str, name: str) -> None:
    seeds = [curve[np.isfinite(curve[:, 2])] for curve in seeds]
    if len(seeds) > 1:
        for curve in seeds:
            axes.plot(curve[:, index], curve[:, 2], color=colour, alpha=0.3, linewidth=0.8)
    shortest = min((len(curve) for curve in seeds), default=0)
    if shortest:
        mean = np.mean([curve[:shortest] for curve in seeds], axis=0)
        axes.plot(
            mean[:, index],
            mean[:, 2],
            color=colour,
            marker="o",
            markersize=3,
            linewidth=1.8,
            label=name,
        )
