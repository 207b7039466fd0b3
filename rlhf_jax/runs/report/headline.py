"""The one metric by which a run is judged, and what became of it."""

import math
from typing import NamedTuple

from rlhf_jax.algorithms.directions import better
from rlhf_jax.runs.report.reading import Run

ONLINE = (
    ("eval", "accuracy/mean@"),
    ("eval", "accuracy/greedy"),
    ("eval", "rewards/sampled"),
    ("eval", "rewards/greedy"),
    ("train", "data/accuracy"),
    ("train", "rewards/mean"),
)
PAIRS = (("eval", "rewards/accuracy"), ("train", "rewards/accuracy"))
LOSS = (("eval", "loss/total"), ("train", "loss/total"))
"""(split, beginning of the metric's name), the first that a run has is taken."""
WORDS = {
    "accuracy/mean@": "sampled answers right",
    "accuracy/greedy": "greedy answers right",
    "rewards/sampled": "reward of samples",
    "rewards/greedy": "reward of greedy answers",
    "data/accuracy": "answers right",
    "rewards/mean": "mean reward",
    "rewards/accuracy": "pairs ranked right",
    "loss/total": "loss",
}
_TAIL = 10
"""Rows of training whose mean is told in place of a single noisy one."""


class Headline(NamedTuple):
    """How a run fared by the metric that it is judged by."""

    split: str
    metric: str
    words: str
    """What the metric is, such as "held out: sampled answers right"."""
    lower_is_better: bool
    first: float
    last: float
    """Of training, where single values are noisy: means over the first and the last tenth of the
    rows, at most 10."""
    best: float
    best_step: int
    """Of held-out metrics; of training the step of the highest single row."""


def headline_of(run: Run) -> Headline | None:
    """By `checkpoint.best_metric` where the run has one, else by what its algorithm is judged by;
    None for a run without a single value."""
    wanted = run.config.get("checkpoint.best_metric")
    choices = [("eval", wanted)] if isinstance(wanted, str) else []
    choices += [*(ONLINE if run.is_online else PAIRS), *LOSS]
    for split, beginning in choices:
        name = next((name for name in names_of(run, split) if name.startswith(beginning)), None)
        if name is not None:
            return _describe(run, split, name, beginning)
    return None


def names_of(run: Run, split: str) -> list[str]:
    """Metrics of a split that have a number somewhere, in the order in which they appear."""
    found = {
        name: None
        for row in run.of(split)
        for name, value in row.items()
        if name not in ("step", "split") and math.isfinite(value)
    }
    return list(found)


def _describe(run: Run, split: str, name: str, beginning: str) -> Headline:
    points = [(step, value) for step, value in run.values(split, name) if math.isfinite(value)]
    values = [value for _, value in points]
    lower = is_lower_better(run, name)
    step, best = (min if lower else max)(points, key=lambda point: point[1])
    around = 1 if split == "eval" else max(1, min(_TAIL, len(values) // 10))
    place = "held out" if split == "eval" else "training"
    return Headline(
        split=split,
        metric=name,
        words=f"{place}: {WORDS.get(beginning, name)}",
        lower_is_better=lower,
        first=sum(values[:around]) / around,
        last=sum(values[-around:]) / around,
        best=best,
        best_step=step,
    )


def is_share(metric: str) -> bool:
    """Whether a metric is a share of prompts, completions or pairs, which is shown in percent."""
    return metric.startswith("accuracy/") or metric.endswith("/accuracy")


def is_lower_better(run: Run, name: str) -> bool:
    """By the metric's meaning; `checkpoint.best_mode` decides for `checkpoint.best_metric`."""
    chosen = run.config.get("checkpoint.best_mode")
    is_chosen = name == run.config.get("checkpoint.best_metric") and chosen is not None
    return (chosen if is_chosen else better(name)) == "min"
