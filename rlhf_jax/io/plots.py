"""Drawing a run's metrics: what is judged in the first row, then health, then the machine.

Which panels there are follows from what the run reports. Words stand in place of metric names,
training and evaluation lie in one panel, one legend holds for all, and only what is noisy is
smoothed.
"""

import datetime
import math
import os
import pathlib
import re
import textwrap
from collections.abc import Sequence
from typing import Any

import yaml

from rlhf_jax.cloud import Place, is_bucket
from rlhf_jax.io.axes import (
    COLOURS,
    GREEDY,
    HELD_OUT,
    SAMPLED,
    SMOOTHED,
    Line,
    Panel,
    Points,
    draw,
)
from rlhf_jax.io.sinks import MetricsError, read_metrics
from rlhf_jax.io.words import held_out_line

Rows = Sequence[dict[str, Any]]
WIDTH = 14.0
"""Inches."""
COLUMNS = 3
"""At least, below the first row: a panel across the whole picture looks like the one to look at."""
JOINED = 5
"""Panels at most of the two rows below the first that share one."""
HEIGHTS = (3.3, 2.3, 2.3)
"""Inches of the rows: the first is what to look at."""


LOSS = Panel("loss (lower is better)", (Line("loss/total"), Line("loss/total", HELD_OUT)))
PAIRS = (
    Panel(
        "pairs told apart rightly",
        (Line("rewards/accuracy"), Line("rewards/accuracy", HELD_OUT)),
        is_share=True,
    ),
    Panel(
        "margin of chosen over rejected", (Line("rewards/margin"), Line("rewards/margin", HELD_OUT))
    ),
    Panel(
        "reward of chosen and of rejected answers",
        (Line("rewards/chosen", "chosen"), Line("rewards/rejected", "rejected")),
    ),
)
REWARD = Panel(
    "reward",
    (Line("rewards/mean"), Line("rewards/sampled", SAMPLED), Line("rewards/greedy", GREEDY)),
)
RIGHT = Panel(
    "right answers",
    (Line("data/accuracy"), Line("accuracy/mean@", SAMPLED), Line("accuracy/greedy", GREEDY)),
    is_share=True,
)
HEALTH = (
    Panel("groups of equal rewards", (Line("rewards/zero_std_groups"),), is_share=True),
    Panel("groups dropped by sampling", (Line("data/sampling_waste"),), is_share=True),
    Panel("entropy, nats per token", (Line("policy/entropy"),)),
    Panel("KL to the reference, nats", (Line("kl/ref"),)),
    Panel("clipped tokens", (Line("policy/clip_fraction"),), is_share=True),
    Panel(
        "completions cut off",
        (Line("length/truncated"), Line("length/truncated_greedy", GREEDY)),
        is_share=True,
    ),
    Panel("length, tokens", (Line("length/mean"), Line("length/greedy", GREEDY)), least=2.0),
    Panel("completions not graded", (Line("rewards/ungraded"),), is_share=True),
    Panel("variance explained by critic", (Line("value/explained_variance"),)),
    Panel("skipped updates", (Line("update/skipped"),), is_share=True),
    Panel("gradient norm", (Line("grad_norm"),)),
)
MACHINE = (
    Panel("tokens per second", (Line("tokens_per_second"),), is_timed=True),
    Panel(
        "seconds of a step",
        (
            Line("time/generate", "generate"),
            Line("time/reward", "grade"),
            Line("time/score", "score"),
            Line("time/update", "update"),
        ),
        is_timed=True,
    ),
    Panel("learning rate", (Line("lr"),), is_noisy=False),
)
OWN = 4
"""Panels at most for what an algorithm of one's own reports, under its own names."""


def plot_run(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    address: Place | None = None,
) -> pathlib.Path:
    """Draw the metrics of a run.

    Args:
        path: a metrics.jsonl or the run folder that holds it.
        out: the image; None: `metrics.png` beside the file.
        address: that of the run, by whose name people know it; None: it is the folder.

    Returns:
        Where the image is.

    Raises:
        MetricsError: no such file, or nothing in it to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # heavy
    from matplotlib.figure import Figure

    path = pathlib.Path(path)
    rows = read_metrics(path)
    folder = path if path.is_dir() else path.parent
    named = [(name, drawn) for name, panels in sections(rows) if (drawn := shown(panels, rows))]
    if len(named) == 3 and len(named[1][1]) + len(named[2][1]) <= JOINED:
        named[1:] = [("health and machine", named[1][1] + named[2][1])]
    if not named:
        raise MetricsError(f"{path}: no metric of a step or of an evaluation, nothing to draw")
    heights = HEIGHTS[: len(named)]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title_of(folder, rows, address), fontsize=12, x=0.005, ha="left")
    parts = figure.subfigures(len(named), 1, height_ratios=heights, squeeze=False)[:, 0]
    kinds: dict[str, Any] = {}
    for part, (name, panels) in zip(parts, named, strict=True):
        part.suptitle(name, x=0.005, ha="left", fontsize=10, fontweight="bold", color="0.35")
        columns = len(panels) if part is parts[0] else max(len(panels), COLUMNS)
        places = list(part.subplots(1, columns, squeeze=False)[0])
        for axes, panel in zip(places, panels, strict=False):
            lines = {line: points(panel, line, rows) for line in panel.lines}
            kinds |= draw(axes, panel, lines, small=columns > 5)
        for axes in places[len(panels) :]:
            axes.set_axis_off()
    if zeros := silent(rows):
        text = textwrap.fill(f"0 throughout, and not drawn: {', '.join(zeros)}", 200)
        figure.supxlabel(text, fontsize=8, x=0.005, ha="left", color="0.35")
    order = [kind for kind in COLOURS if kind in kinds]
    figure.legend(
        [kinds[kind] for kind in order],
        order,
        loc="outside upper right",
        ncols=len(order),
        fontsize=9,
        frameon=False,
    )
    out = folder / "metrics.png" if out is None else pathlib.Path(out)
    figure.savefig(out, dpi=100)
    return out


def sections(rows: Rows) -> list[tuple[str, list[Panel]]]:
    """The rows of the picture: what is judged follows from what the run reports."""
    names = dict.fromkeys(name for row in rows for name in row)
    judged = [LOSS, *PAIRS]
    if "data/groups_generated" in names:  # it samples: its loss says nothing
        functions = _reward_functions(names)
        each = Panel(
            "each reward function",
            tuple(Line(name, name.removeprefix("rewards/")) for name in functions),
        )
        reward = REWARD
        if any(row.get("data/sampling_waste", 0) > 0 for row in rows):
            # Groups whose rewards are equal are not in the training batch, and not in its mean.
            reward = REWARD._replace(title="reward (in training of the kept groups)")
        judged = [reward, *([each] if len(functions) > 1 else []), RIGHT]
        if _rewards_are_shares(rows):
            judged = [RIGHT._replace(title="right answers, which is the reward")]
    known = {"step", "split", "epoch", "lr", "grad_norm", "tokens_per_second"}
    own = [name for name in names if "/" not in name and name not in known]
    health = [*HEALTH, *(Panel(name, (Line(name),)) for name in own[:OWN])]
    first = "what is judged"
    if sum(row["split"] == "train" for row in rows) > SMOOTHED:
        first += " (pale: each step, bold: smoothed)"
    return [(first, judged), ("health", health), ("machine", list(MACHINE))]


def _rewards_are_shares(rows: Rows) -> bool:
    """Whether the reward is 1 for a right answer and 0 for another, so that its mean is the share
    of right answers. (With dynamic sampling it is that of the kept groups alone.)"""
    pairs = [
        (row["rewards/mean"], row["data/accuracy"])
        for row in rows
        if "rewards/mean" in row and "data/accuracy" in row
    ]
    return bool(pairs) and all(abs(reward - share) < 1e-6 for reward, share in pairs)


def _reward_functions(names: Sequence[str] | dict[str, None]) -> list[str]:
    """Metrics that are the mean of one reward function."""
    ours = {line.metric for panel in (REWARD, *PAIRS, *HEALTH) for line in panel.lines}
    ours |= {"rewards/std", "rewards/group_std", "rewards/overlong_penalty"}
    return [
        name
        for name in names
        if name.startswith("rewards/")
        and name.count("/") == 1
        and name not in ours
        and not name.endswith("_sampled")
    ]


def shown(panels: Sequence[Panel], rows: Rows) -> list[Panel]:
    """Panels that say something: not those without points, nor those that are 0 throughout."""
    return [
        panel
        for panel in panels
        if any(y for line in panel.lines for _, y in points(panel, line, rows))
    ]


def silent(rows: Rows) -> list[str]:
    """Titles of the panels that `shown` leaves out because they are 0 throughout: nobody must guess
    whether it was 0 or was not measured."""
    panels = [panel for _, several in sections(rows) for panel in several]
    kept = {panel.title for panel in shown(panels, rows)}
    return [
        panel.title
        for panel in panels
        if panel.title not in kept and any(points(panel, line, rows) for line in panel.lines)
    ]


def points(panel: Panel, line: Line, rows: Rows) -> Points:
    """(step, value) of a line, where it is a number."""
    split = "eval" if line.kind in (SAMPLED, GREEDY, HELD_OUT) else "train"
    kept = [row for row in rows if row["split"] == split]
    if panel.is_timed:
        # Where the log does not say what was compiled, the first step is known to be.
        says = any("time/compile" in row for row in kept)
        kept = [row for row in kept if "time/compile" not in row] if says else kept[1:]
    found = []
    for row in kept:
        name = _found(row, line.metric)
        if name is not None and math.isfinite(row[name]):
            found.append((float(row["step"]), float(row[name])))
    return found


def _found(row: dict[str, Any], metric: str) -> str | None:
    if metric.endswith("@"):
        return next((name for name in row if name.startswith(metric)), None)
    return metric if metric in row else None


def title_of(folder: pathlib.Path, rows: Rows, address: Place | None = None) -> str:
    """Two lines: which run this is, and what its evaluations say."""
    place = folder.absolute()
    if address is not None and is_bucket(address):
        place = address
    is_seed = re.fullmatch(r"seed_\d+", place.name)  # of a run in a comparison
    parts = [f"{place.parent.name}/{place.name}" if is_seed else place.name]
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        model = config.get("model") or {}
        own = (model.get("config") or {}).get("model_type")
        parts.append(str((config.get("algorithm") or {}).get("name", "")))
        path = "/".join(pathlib.Path(model.get("path") or "").parts[-2:])
        parts.append(path or (f"{own} from random weights" if own else ""))
    except (OSError, AttributeError, yaml.YAMLError):  # a metrics file alone has no run to name
        pass
    file = folder / "metrics.jsonl"
    if file.exists():
        day = datetime.datetime.fromtimestamp(file.stat().st_mtime)
        parts.append(f"{day:%d %B %Y}")
    last = max(row["step"] for row in rows)
    parts.append(f"{last} steps")
    evaluations = [row for row in rows if row["split"] == "eval"]
    title = " · ".join(dict.fromkeys(part for part in parts if part))
    if not evaluations:
        return title
    told = held_out_line(evaluations[-1], evaluations[0]).split(" · ")[:3]
    return f"{title}\nheld-out, first and last: {' · '.join(told)}"
