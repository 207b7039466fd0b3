"""Drawing a comparison: learning curves of several runs over steps and over time."""

import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_jax.io.axes import as_share

Curve = Sequence[tuple[float, float, float]]
"""(step, seconds, value) of every measurement of one run."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Told apart by colour-blind readers (Okabe and Ito)."""
GRID = 50
"""Times at which seeds are averaged."""


def plot_curves(
    curves: Mapping[str, Sequence[Curve]],
    out: str | os.PathLike[str],
    *,
    metric: str,
    level: float | None = None,
    reach: float | None = None,
    title: str | None = None,
    values: str | None = None,
    clock: str = "seconds of the run, loading and compiling included",
) -> pathlib.Path:
    """Draw what runs reached, over steps and seconds: a thin line a seed, a thick one their mean.

    Seeds take different times for the same steps: over seconds the mean is taken at equal times,
    between measurements linearly, as long as every seed is running.

    Args:
        curves: name -> a curve per seed. Curves of one name are averaged over steps where they have
          the same ones.
        out: the image.
        metric: name of what the values are, such as `accuracy/mean@4`.
        level: a value to mark by a dashed line.
        reach: share of the best value that `level` is; None: it is named by its value alone.
        title: above the picture; None: what is compared.
        values: what the values are, in words; None: the metric in words, measured on held-out rows.
        clock: what the seconds are.

    Returns:
        Where the image is.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # heavy
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    seeds = max((len(of_name) for of_name in curves.values()), default=1)
    several = f"\nthin lines: {seeds} seeds each; thick: their mean" if seeds > 1 else ""
    what = title or f"{', '.join(curves)} on the same held-out prompts"
    figure.suptitle(_plain(f"{what}{several}"), fontsize=12)
    panels = figure.subplots(1, 2, sharey=True)
    labels = ("training steps", clock)
    handles: dict[str, Any] = {}
    for axes, index, label in zip(panels, (0, 1), labels, strict=True):
        for number, (name, of_name) in enumerate(curves.items()):
            found = [np.array(curve, float) for curve in of_name if len(curve)]
            handles[name] = _draw(
                axes, found, index, COLOURS[number % len(COLOURS)]
            ) or handles.get(name)
        if level is not None:
            axes.axhline(level, color="grey", linestyle="--", linewidth=0.9)
        axes.set_xlabel(label, fontsize=10)
        axes.grid(alpha=0.3)
    panels[0].xaxis.get_major_locator().set_params(integer=True)
    if level is not None:
        share = "" if reach is None else f"{100 * reach:.0f}% of the best: "
        panels[0].annotate(
            f"{share}{_value(level, metric)}",
            (0.99, level),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            color="0.35",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1.0},
        )
    panels[0].set_ylabel(values or held_out_in_words(metric), fontsize=10)
    if metric.startswith("accuracy/"):
        for axes in panels:
            as_share(axes)
    known = {name: handle for name, handle in handles.items() if handle is not None}
    figure.legend(
        list(known.values()),
        [_plain(name) for name in known],
        loc="outside lower center",
        ncols=max(len(known), 1),
        frameon=False,
    )
    out = pathlib.Path(out)
    figure.savefig(out, dpi=110)
    return out


def _plain(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def held_out_in_words(metric: str) -> str:
    """`accuracy/mean@4` in words."""
    kind = re.fullmatch(r"accuracy/(\w+?)(?:@(\d+))?", metric)
    if kind is None:
        return f"held-out {metric}"
    known = {
        "mean": f"right answers of {kind[2]} samples per prompt",
        "pass": f"prompts with a right one of {kind[2]} samples",
        "maj": f"prompts whose most frequent answer of {kind[2]} is right",
        "greedy": "right greedy answers",
    }
    return known.get(kind[1], f"held-out {metric}")


def _value(level: float, metric: str) -> str:
    return f"{100 * level:.1f}%" if metric.startswith("accuracy/") else f"{level:.3g}"


def _draw(axes: Any, seeds: list[np.ndarray], index: int, colour: str) -> Any:
    """The thick line of some seeds."""
    seeds = [curve[np.isfinite(curve[:, 2])] for curve in seeds]
    seeds = [curve for curve in seeds if len(curve)]
    if not seeds:
        return None
    if len(seeds) > 1:
        for curve in seeds:
            axes.plot(curve[:, index], curve[:, 2], color=colour, alpha=0.3, linewidth=0.9)
    x, y = _mean(seeds, index)
    marker = "o" if index == 0 or len(seeds) == 1 else None
    return axes.plot(x, y, color=colour, marker=marker, markersize=3.5, linewidth=2.0)[0]


def _mean(seeds: list[np.ndarray], index: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean over seeds: at their common steps, or at equal times."""
    if index == 0 or len(seeds) == 1:
        shortest = min(len(curve) for curve in seeds)
        mean = np.mean([curve[:shortest] for curve in seeds], axis=0)
        return mean[:, index], mean[:, 2]
    begin = max(curve[0, index] for curve in seeds)
    end = min(curve[-1, index] for curve in seeds)
    times = np.linspace(begin, max(begin, end), GRID)
    values = [np.interp(times, curve[:, index], curve[:, 2]) for curve in seeds]
    return times, np.mean(values, axis=0)
