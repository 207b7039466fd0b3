"""Which charts a report has, in which order, and what their axes and lines are called.

First what is judged, then the health of the training, then the machine; what nobody has thought of
comes last, a chart a metric.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from rlhf_jax.io.run_metrics import meaning_of
from rlhf_jax.runs.report.headline import names_of
from rlhf_jax.runs.report.reading import Run

SECTIONS = {
    "judged": "What is judged",
    "health": "Health of the training",
    "machine": "The machine",
    "rest": "Everything else",
}
"""Name -> heading, in order."""
SOLID = "solid"
DASHED = "dashed"
DOTTED = "dotted"


class Line(NamedTuple):
    """One metric of one split in a chart."""

    split: str
    metric: str
    """In `PANELS` a pattern, in a `Panel` of a report a name."""
    label: str
    style: str = SOLID


class Panel(NamedTuple):
    """One chart."""

    section: str
    title: str
    axis: str
    """Of y, in words, with the unit."""
    lines: tuple[Line, ...]
    help: str = ""
    """What the metrics mean."""
    smooth: bool = True
    """Single values are noisy: they may be smoothed."""
    timed: bool = False
    """Steps in which something was compiled are left out."""
    kind: str = ""
    """"offline" or "online" where only such runs are drawn: the loss of a policy gradient says
    nothing of how good the policy is, and the mean score of a reward model is no reward."""
    only: tuple[int, ...] | None = None
    """Numbers of the runs that are drawn; None: all. Follows from `kind`."""


def _both(metric: str) -> tuple[Line, Line]:
    return Line("train", metric, "training"), Line("eval", metric, "held out")


PANELS = (
    Panel(
        "judged",
        "Reward",
        "mean reward",
        (
            Line("train", "rewards/mean", "training"),
            Line("eval", "rewards/sampled", "held out, sampled"),
            Line("eval", "rewards/greedy", "held out, greedy", DASHED),
            Line("eval", "rewards/mean", "held out"),
        ),
        kind="online",
    ),
    Panel(
        "judged",
        "Right answers",
        "share right",
        (
            Line("train", "data/accuracy", "training"),
            Line("eval", r"accuracy/mean@\d+", "held out, sampled"),
            Line("eval", "accuracy/greedy", "held out, greedy", DASHED),
        ),
    ),
    Panel(
        "judged",
        "Best and most frequent answer of several",
        "share of prompts",
        (
            Line("eval", r"accuracy/pass@\d+", "any sample right"),
            Line("eval", r"accuracy/maj@\d+", "most frequent right", DASHED),
        ),
    ),
    Panel("judged", "Pairs ranked right", "share of pairs", _both("rewards/accuracy")),
    Panel("judged", "Chosen over rejected", "margin", _both("rewards/margin")),
    Panel("judged", "Loss", "loss", _both("loss/total"), kind="offline"),
    Panel(
        "health",
        "Groups that teach nothing",
        "share of groups with equal rewards",
        (Line("train", "rewards/zero_std_groups", "training"),),
    ),
    Panel(
        "health",
        "Spread of rewards inside a group",
        "standard deviation",
        (Line("train", "rewards/group_std", "training"),),
    ),
    Panel("health", "Entropy of the policy", "nats per token", _both("policy/entropy")),
    Panel("health", "KL to the reference", "nats per token", _both("kl/ref")),
    Panel(
        "health", "KL to the reference, whole answers", "nats per answer", _both("kl/ref_sequence")
    ),
    Panel("health", "KL of one update", "nats per token", _both("policy/approx_kl")),
    Panel(
        "health",
        "Tokens that the clip holds",
        "share of tokens",
        (
            Line("train", "policy/clip_fraction", "all"),
            Line("train", "policy/clip_fraction_low", "at the lower bound", DASHED),
            Line("train", "policy/clip_fraction_high", "at the upper bound", DOTTED),
        ),
    ),
    Panel("health", "Largest importance ratio", "ratio", _both("policy/ratio_max")),
    Panel(
        "health",
        "Length of completions",
        "tokens",
        (
            Line("train", "length/mean", "training"),
            Line("eval", "length/greedy", "held out, greedy", DASHED),
        ),
    ),
    Panel(
        "health",
        "Completions cut at the limit",
        "share of completions",
        (
            Line("train", "length/truncated", "training"),
            Line("eval", "length/truncated_greedy", "held out, greedy", DASHED),
        ),
    ),
    Panel(
        "health",
        "Completions that could not be graded",
        "share of completions",
        (
            Line("train", "rewards/ungraded", "training"),
            Line("eval", "rewards/ungraded_sampled", "held out, sampled"),
            Line("eval", "rewards/ungraded", "held out, greedy", DASHED),
        ),
    ),
    Panel(
        "health",
        "Rewards of chosen and rejected",
        "reward",
        (
            Line("train", "rewards/chosen", "chosen, training"),
            Line("train", "rewards/rejected", "rejected, training", DASHED),
            Line("eval", "rewards/chosen", "chosen, held out"),
            Line("eval", "rewards/rejected", "rejected, held out", DASHED),
        ),
    ),
    Panel("health", "Mean score", "score", _both("rewards/mean"), kind="offline"),
    Panel(
        "health",
        "Log-probability of chosen and rejected",
        "nats",
        (
            Line("train", "logps/chosen", "chosen, training"),
            Line("train", "logps/rejected", "rejected, training", DASHED),
            Line("eval", "logps/chosen", "chosen, held out"),
            Line("eval", "logps/rejected", "rejected, held out", DASHED),
        ),
    ),
    Panel(
        "health",
        "How well the critic predicts",
        "share of the variance explained",
        _both("value/explained_variance"),
    ),
    Panel("health", "Loss of the policy", "loss", _both("loss/total"), kind="online"),
    Panel("health", "Loss of the critic", "loss", _both("loss/value")),
    Panel("health", "Norm of the gradient", "norm before clipping", _both("grad_norm")),
    Panel(
        "health",
        "Sampler against trainer",
        "nats per token",
        (Line("train", "sampler/logp_diff", "training"),),
    ),
    Panel(
        "health",
        "Generated for nothing",
        "share of groups",
        (Line("train", "data/sampling_waste", "training"),),
    ),
    Panel(
        "health",
        "Learning rate",
        "learning rate",
        (Line("train", "lr", "training"),),
        smooth=False,
    ),
    Panel(
        "health",
        "Skipped updates",
        "updates until now",
        (Line("train", "update/skipped_total", "training"),),
        smooth=False,
    ),
    Panel(
        "machine",
        "Throughput of whole steps",
        "tokens per second",
        (Line("train", "tokens_per_second", "training"),),
        timed=True,
    ),
    Panel(
        "machine",
        "Throughput of the sampler",
        "tokens per second",
        (Line("train", "sampler/tokens_per_second", "training"),),
        timed=True,
    ),
    Panel(
        "machine",
        "Time of a step",
        "seconds",
        (
            Line("train", "time/step", "whole step"),
            Line("train", "time/generate", "generation", DASHED),
            Line("train", "time/update", "update", DOTTED),
        ),
        timed=True,
    ),
    Panel(
        "machine",
        "Time of grading and scoring",
        "seconds",
        (
            Line("train", "time/reward", "grading"),
            Line("train", "time/score", "scoring by the model", DASHED),
        ),
        timed=True,
    ),
    Panel(
        "machine",
        "Time of an evaluation",
        "seconds",
        (Line("eval", "time/evaluate", "evaluation"),),
    ),
    Panel(
        "machine",
        "Padding",
        "share of the computed places",
        (Line("train", "data/padding", "training"),),
    ),
)
"""What a report of any runs may hold; lines without values are left out."""
CLOCKS = frozenset({"time/elapsed", "time/compile", "epoch", "data/epoch"})
"""What is an axis, or a mark in other charts, and no chart."""
_OWN_REWARD = re.compile(r"rewards/([^/]+)")


def panels_of(runs: Sequence[Run]) -> tuple[list[Panel], dict[str, float]]:
    """The charts of some runs.

    Returns:
        (charts in their order, name -> value of the metrics that never changed in any run and are
        therefore not drawn).
    """
    names = {split: _names(runs, split) for split in ("train", "eval")}
    constant = constants(runs, names)
    found = [_filled(panel, names, constant, runs) for panel in _with_rewards(names, runs)]
    panels = [panel for panel in found if panel.lines]
    taken = {(line.split, line.metric) for panel in panels for line in panel.lines}
    rest: dict[str, list[Line]] = {}
    for split, label in (("train", "training"), ("eval", "held out")):
        for name in names[split]:
            if (split, name) not in taken and name not in CLOCKS | constant.keys():
                rest.setdefault(name, []).append(Line(split, name, label))
    for name, lines in rest.items():
        is_time = name.startswith("time/")
        section = "machine" if is_time else "rest"
        axis = "seconds" if is_time else "value"
        panels.append(Panel(section, name, axis, tuple(lines), help=meaning_of(name) or ""))
    order = list(SECTIONS)
    hidden = {name: value for name, value in constant.items() if name not in CLOCKS}
    for _, name in taken:
        hidden.pop(name, None)
    return sorted(panels, key=lambda panel: order.index(panel.section)), hidden


def constants(runs: Sequence[Run], names: dict[str, list[str]]) -> dict[str, float]:
    """Metrics that have one and the same value in every row of every run; those with a single row
    are none."""
    found = {}
    for name in dict.fromkeys(name for split in names.values() for name in split):
        values = [value for run in runs for split in names for _, value in run.values(split, name)]
        if len(values) > 1 and len(set(values)) == 1:
            found[name] = values[0]
    return found


def _names(runs: Sequence[Run], split: str) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in names_of(run, split)))


def _with_rewards(names: dict[str, list[str]], runs: Sequence[Run]) -> list[Panel]:
    """`PANELS`, and behind the share of right answers a chart for each reward function, but not for
    one that is the whole reward."""
    known = {line.metric for panel in PANELS for line in panel.lines}
    known |= {"rewards/std", "rewards/overlong_penalty"}
    own = [
        match[1]
        for name in dict.fromkeys(names["train"] + names["eval"])
        if name not in known
        and (match := _OWN_REWARD.fullmatch(name))
        and any(_differs(run, name) for run in runs)
    ]
    extra = [
        Panel("judged", f"Reward function {label}", "mean of its values", _both(f"rewards/{label}"))
        for label in own
    ]
    return [*PANELS[:3], *extra, *PANELS[3:]]


def _differs(run: Run, name: str) -> bool:
    """Whether a reward function is not the whole reward, to rounding."""
    own = run.values("train", name)
    whole = run.values("train", "rewards/mean")
    return len(own) != len(whole) or not all(
        math.isclose(x, y, rel_tol=1e-5, abs_tol=1e-7)
        for (_, x), (_, y) in zip(own, whole, strict=True)
    )


def _filled(
    panel: Panel, names: dict[str, list[str]], constant: dict[str, float], runs: Sequence[Run]
) -> Panel:
    """A panel with those lines that some run has values for."""
    only = None
    if panel.kind:
        wanted = panel.kind == "online"
        only = tuple(number for number, run in enumerate(runs) if run.is_online is wanted)
    lines = tuple(
        line._replace(metric=name)
        for line in panel.lines
        for name in names[line.split]
        # a reward that never moves is news
        if re.fullmatch(line.metric, name) and (name not in constant or panel.section == "judged")
    )
    if only is not None:
        drawn = [runs[number] for number in only]
        lines = tuple(
            line for line in lines if any(run.values(line.split, line.metric) for run in drawn)
        )
    meanings = dict.fromkeys(f"{line.metric}: {meaning_of(line.metric) or '-'}" for line in lines)
    return panel._replace(lines=lines, only=only, help="; ".join(meanings))
