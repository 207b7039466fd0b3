"""A suite as a picture: how many times as long each side takes, with the range of its windows."""

import pathlib

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rlhf_jax.bench.outcome import ratio_text
from rlhf_jax.bench.suite import Found, environment_line

_OURS = "#0072b2"
_OTHERS = "#999999"


def draw(found: Found, path: str | pathlib.Path) -> None:
    """Writes a picture: a group of bars for each comparison, a bar for each side.

    Args:
      found: a suite.
      path: of the picture; its ending says of what kind.
    """
    outcomes = [each for each in found.every() if each.sides]
    count = sum(len(each.sides) + 1 for each in outcomes)
    figure = Figure(figsize=(9, 1.2 + 0.32 * count), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    place = 0.0
    for outcome in outcomes:
        axes.text(0, place, outcome.title, fontsize=8, weight="bold")
        place += 1
        base = outcome.sides[0].timing.median
        for side in outcome.sides:
            times = side.timing.median / base
            low, high = (value / base for value in side.timing[1:])
            colour = _OURS if side is outcome.sides[0] else _OTHERS
            axes.barh(place, times, color=colour, height=0.8)
            axes.plot([low, high], [place, place], color="black", linewidth=1)
            shown = ratio_text(outcome, side).removeprefix("none: ")
            axes.text(max(times, high) + 0.03, place, f"{side.name}, {shown}", va="center")
            place += 1
    axes.set_ylim(place, -1)
    axes.set_yticks([])
    axes.set_xlim(
        0,
        1.6
        * max(
            (
                side.timing.high / each.sides[0].timing.median
                for each in outcomes
                for side in each.sides
            ),
            default=1,
        ),
    )
    axes.set_xlabel("times as long as rlhf_jax (median of the windows; lines: their range)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.suptitle(environment_line(found), fontsize=6, wrap=True)
    figure.savefig(path, dpi=120)
