"""Metrics in plain words: on the line of a running step, of an evaluation, and in pictures."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

Form = Literal["value", "share", "count", "small"]
"""A number with three decimals; a share, shown as %; a whole number; three significant digits."""


class Shown(NamedTuple):
    """A metric on a line."""

    metric: str
    label: str
    form: Form
    has_change: bool = False
    """Its change since the beginning stands behind it."""


ONLINE = (
    Shown("rewards/mean", "reward", "value", has_change=True),
    Shown("data/accuracy", "right", "share"),
    Shown("rewards/zero_std_groups", "equal groups", "share"),
    Shown("length/mean", "length", "count"),
    Shown("kl/ref", "kl", "small"),
    Shown("policy/entropy", "entropy", "small"),
    Shown("tokens_per_second", "tok/s", "count"),
)
"""Of a run that samples. Its loss says nothing: with one update per batch it is 0 whatever is
learnt."""
OFFLINE = (
    Shown("loss/total", "loss", "value", has_change=True),
    Shown("rewards/accuracy", "pairs right", "share"),
    Shown("rewards/margin", "margin", "value"),
    Shown("grad_norm", "grad", "small"),
    Shown("tokens_per_second", "tok/s", "count"),
)
HELD_OUT = (
    Shown("loss/total", "loss", "value"),
    Shown("accuracy/mean@", "right sampled", "share"),
    Shown("accuracy/greedy", "right greedy", "share"),
    Shown("rewards/sampled", "reward sampled", "value"),
    Shown("rewards/greedy", "reward greedy", "value"),
    Shown("rewards/accuracy", "pairs right", "share"),
    Shown("rewards/margin", "margin", "value"),
    Shown("kl/ref_sequence", "kl an answer", "small"),
    Shown("length/greedy", "length", "count"),
    Shown("length/truncated_greedy", "cut off", "share"),
)
"""At evaluations. A name that ends in @ stands for any number of samples."""


def number(value: float, form: Form) -> str:
    """A value in its form; what rounds to zero is 0, never -0."""
    if form == "share":
        text = f"{100 * value:.0f}%"
        return "0%" if text == "-0%" else text
    if form == "small":
        text = f"{value:.3g}"
    else:
        text = f"{value:,.0f}" if form == "count" else f"{value:.3f}"
    return text.removeprefix("-") if text.strip("-0.,") == "" else text


def change(value: float, before: float, form: Form) -> str:
    """`+0.030`, `-2%`: with a sign; "" where nothing is seen of it."""
    text = number(value - before, form)
    if text.strip("0.,%") == "":
        return ""
    return text if text.startswith("-") else f"+{text}"


def line_of(
    metrics: Mapping[str, Any],
    shown: Sequence[Shown],
    *,
    before: Mapping[str, float] | None = None,
) -> str:
    """`reward 0.412 (+0.030) · right 38% · ...`: what people watch, or the first three there are.

    Args:
      metrics: of a step, or means over several.
      shown: which, in which order.
      before: the same metrics in the beginning; None: no change is shown.
    """
    parts = []
    for one in shown:
        if one.metric not in metrics:
            continue
        value = float(metrics[one.metric])
        label = one.label
        if one.metric == "rewards/mean" and metrics.get("data/sampling_waste", 0) > 0:
            # Groups that dynamic sampling drops are not in the batch, and not in its mean.
            label = "reward of kept groups"
        text = f"{label} {number(value, one.form)}"
        if one.has_change and before is not None and one.metric in before:
            moved = change(value, before[one.metric], one.form)
            text += f" ({moved})" if moved else ""
        parts.append(text)
    rest = [f"{name} {number(float(value), 'small')}" for name, value in list(metrics.items())[:3]]
    return " · ".join(parts or rest)


def held_out_line(metrics: Mapping[str, Any], first: Mapping[str, Any] | None = None) -> str:
    """`right sampled 29% -> 41% · ...`: an evaluation, beside the first one of the run.

    Args:
      metrics: of an evaluation.
      first: the run's first evaluation; None: this is it.
    """
    parts = []
    for one in HELD_OUT:
        name = _found(metrics, one.metric)
        if name is None or _is_repeated(metrics, name):
            continue
        now = number(float(metrics[name]), one.form)
        before = now if first is None or name not in first else number(float(first[name]), one.form)
        parts.append(f"{one.label} {now if before == now else f'{before} -> {now}'}")
    return " · ".join(parts) or line_of(metrics, ())


def _is_repeated(metrics: Mapping[str, Any], name: str) -> bool:
    """Whether it is a reward that only says what the share of right answers says."""
    of = {"rewards/sampled": "accuracy/mean@", "rewards/greedy": "accuracy/greedy"}.get(name)
    share = None if of is None else _found(metrics, of)
    return share is not None and abs(float(metrics[share]) - float(metrics[name])) < 1e-6


def _found(metrics: Mapping[str, Any], name: str) -> str | None:
    """The metric of that name; of one that ends in @ whichever there is."""
    if name.endswith("@"):
        return next((known for known in metrics if known.startswith(name)), None)
    return name if name in metrics else None
