"""One panel of a picture of metrics: its lines, its axes, what is smoothed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Points = list[tuple[float, float]]
"""(step, value)"""
TRAINING = "training"
SAMPLED = "held-out, sampled"
GREEDY = "held-out, greedy"
HELD_OUT = "held-out"
COLOURS = {TRAINING: "C0", SAMPLED: "C1", GREEDY: "C2", HELD_OUT: "C1"}
"""What a line is -> its colour, the same in every panel."""
LEAST_SHARE = 0.1
"""An axis of percents spans ten of them at least."""
SMOOTHED = 20
"""Points from which on a noisy line is smoothed: a mean over a fifteenth of the run, centred."""


class Line(NamedTuple):
    """One metric in a panel."""

    metric: str
    """A name that ends in @ stands for any number of samples."""
    kind: str = TRAINING
    """A key of `COLOURS`; another text: it stands at the end of the line."""


class Panel(NamedTuple):
    """Some metrics of one meaning and unit."""

    title: str
    lines: tuple[Line, ...]
    is_share: bool = False
    is_noisy: bool = True
    is_timed: bool = False
    """Compilation counts in it: steps that compiled are left out."""
    least: float = 0.0
    """The axis spans so much at least: a smaller movement is none."""


def draw(axes: Any, panel: Panel, drawn: Mapping[Line, Points], *, small: bool) -> dict[str, Any]:
    """Draws a panel.

    Args:
      axes: of matplotlib.
      panel: what is drawn.
      drawn: the points of its lines; a line without any is left out.
      small: there is little room for words.

    Returns:
      A line of every kind in it, for the legend.
    """
    kinds = {}
    ends = []
    for number, line in enumerate(panel.lines):
        found = drawn[line]
        if not found:
            continue
        steps, values = (list(axis) for axis in zip(*found, strict=True))
        colour = COLOURS.get(line.kind, f"C{number}")
        if line.kind in (SAMPLED, GREEDY, HELD_OUT):
            # Two evaluations are two points: a line between them would look like a curve.
            style = ":" if len(values) > 3 else "none"
            handle = axes.plot(
                steps, values, color=colour, marker="o", markersize=4, linestyle=style, linewidth=1
            )[0]
        else:
            noisy = panel.is_noisy and len(values) > SMOOTHED
            if noisy:
                axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            smooth = smoothed(values) if noisy else values
            marker = "o" if len(values) == 1 else ""  # a line of one point is not seen
            handle = axes.plot(
                steps, smooth, color=colour, linewidth=1.6, marker=marker, markersize=4
            )[0]
            ends.append((line, colour, steps[-1], smooth[-1]))
        if line.kind in COLOURS:
            kinds[line.kind] = handle
    _label_ends(axes, [end for end in ends if end[0].kind not in COLOURS])
    axes.set_title(panel.title, fontsize=8 if small else 10)
    axes.set_xlabel("step", fontsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.tick_params(labelsize=7 if small else 8)
    axes.grid(alpha=0.3)
    spread(axes, max(panel.least, LEAST_SHARE if panel.is_share else 0.0))
    if panel.is_share:
        as_share(axes)
    return kinds


def spread(axes: Any, least: float) -> None:
    """Makes the axis of y span so much at least, around what is drawn."""
    low, high = axes.get_ylim()
    missing = max(0.0, least - (high - low)) / 2
    axes.set_ylim(low - missing, high + missing)


def as_share(axes: Any) -> None:
    """Percents on the axis of y, none of them below 0 or above 100."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.0), min(high, 1.0))
    axes.yaxis.set_major_formatter(lambda value, place: f"{100 * value:.3g}%")
    for line in axes.get_lines():
        # The frame would cut what lies on 0 or 100 % in half.
        line.set_clip_on(False)


def _label_ends(axes: Any, ends: list[tuple[Line, str, float, float]]) -> None:
    """Names beside the ends of lines, none over another."""
    if not ends:
        return
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + 0.2 * (right - left))
    low, high = axes.get_ylim()
    place = -math.inf
    for line, colour, step, value in sorted(ends, key=lambda end: end[3]):
        place = max(value, place + 0.09 * (high - low))
        axes.annotate(
            line.kind,
            (step, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=8,
        )


def smoothed(values: Sequence[float]) -> list[float]:
    """Means over a fifteenth of the values, centred: a curve does not lag behind its points.
    Towards the ends over fewer, so that it begins and ends where they do."""
    reach = max(1, len(values) // 30)
    means = []
    for place in range(len(values)):
        near = max(min(place, len(values) - 1 - place), reach // 3)
        window = values[max(0, place - min(reach, near)) : place + min(reach, near) + 1]
        means.append(math.fsum(window) / len(window))
    return means
