"""A comparison as tables: what each run reached and took, what it reached at equal budgets, and how
it differs from the best, seed by seed."""

from typing import NamedTuple

import numpy as np

from rlhf_jax.runs.by_prompt import ByPrompt
from rlhf_jax.runs.intervals import FEWEST, Estimate, estimate, estimate_crossed

COLUMNS = {
    "before": "accuracy before",
    "after": "accuracy after",
    "greedy_before": "greedy before",
    "greedy_after": "greedy after",
    "steps_to_reach": "steps to {reach:.0%} of best",
    "seconds_to_reach": "seconds to it",
    "steps": "steps",
    "training": "seconds of training",
    "compiling": "seconds of compiling",
    "seconds": "seconds in all",
    "bytes": "MB held",
    "samples": "generated samples",
    "tokens": "generated tokens",
    "entropy": "final entropy",
}
"""Figures of a run -> headings of the table."""
DIGITS = {"steps": 0, "samples": 0, "tokens": 0, "steps_to_reach": 0}
DIGITS |= {"seconds": 1, "training": 1, "compiling": 1, "seconds_to_reach": 1, "bytes": 1}
"""Decimal places of the figures in the table; 3 of the others."""
REACHED = ("steps_to_reach", "seconds_to_reach")
BUDGETS = {"tokens": "{:,.0f} tokens", "step": "{:,.0f} steps", "seconds": "{:,.1f} s"}
"""What a measurement has cost -> how much of it is written. Tokens are those generated for
training, seconds those of training: without start, compilation and evaluations."""
SHARES = (0.25, 0.5, 1.0)
"""Of the largest budget that every run has spent."""
OVER = 0.05
"""Share by which a measurement may exceed a budget: the seeds of one configuration generate a few
tokens more or less, and their last measurements belong together."""
NEVER_ABOVE = "never above the start"
FROM_START = "above it from the start"
NEVER = "never"


class Measured(NamedTuple):
    """One run of the comparison."""

    name: str
    algorithm: str
    seed: int
    curve: list[dict[str, float]]
    """Held-out metrics at every evaluation, with what was spent until then: `step`, `seconds` (of
    training; start, compilation and evaluations do not count) and `tokens` (generated for
    training)."""
    seconds: float
    """Of the whole run: start, compilation, training and evaluations."""
    compiling: float
    """Seconds of tracing and compiling, or of reading programs from the cache, in all; NaN for a
    run that did not note it, whose seconds of training contain it."""
    bytes: int
    """Parameters, optimizer state and every further model that is held while training."""
    samples: int
    """Completions generated for training."""
    entropy: float
    """Of the policy at the last step, nats per token; NaN where the algorithm does not report
    it."""
    by_prompt: ByPrompt = {}
    """Of the last measurement, by metric."""

    @property
    def is_trained(self) -> bool:
        """Whether it took a step: the best of several answers of the start takes none."""
        return self.curve[-1]["step"] > 0


class Table(NamedTuple):
    """Headings, and a row per name."""

    columns: list[str]
    rows: list[list[str]]


def figures(run: Measured, metric: str, target: float) -> dict[str, float]:
    """The columns of `COLUMNS` of one run; NaN where the target was not reached after the start."""
    first = run.curve[0]
    last = run.curve[-1]
    reached = None
    if outcome(run, metric, target) == "":
        reached = next(point for point in run.curve if point[metric] >= target)
    return {
        "before": first[metric],
        "after": last[metric],
        "greedy_before": first["accuracy/greedy"],
        "greedy_after": last["accuracy/greedy"],
        "steps_to_reach": float("nan") if reached is None else reached["step"],
        "seconds_to_reach": float("nan") if reached is None else reached["seconds"],
        "steps": last["step"],
        "training": last["seconds"],
        "compiling": run.compiling,
        "seconds": run.seconds,
        "bytes": run.bytes / 1e6,
        "samples": float(run.samples),
        "tokens": last["tokens"],
        "entropy": run.entropy,
    }


def outcome(run: Measured, metric: str, target: float) -> str:
    """Why no steps to the target can be told; empty where they can.

    A run that starts above the target and gets worse has not reached it in 0 steps.
    """
    values = [point[metric] for point in run.curve if point[metric] == point[metric]]
    if not values or max(values[1:], default=-np.inf) <= values[0]:
        return NEVER_ABOVE
    if values[0] >= target:
        return FROM_START
    return "" if max(values) >= target else NEVER


def table(
    runs: list[Measured], metric: str, target: float, *, reach: float
) -> tuple[list[str], list[list[str]]]:
    """(headings, rows): a row per name, mean ± standard deviation over its seeds."""
    columns = ["run", "algorithm", *(heading.format(reach=reach) for heading in COLUMNS.values())]
    rows = []
    for name, seeds in by_name(runs).items():
        found = [figures(run, metric, target) for run in seeds]
        reasons = [outcome(run, metric, target) for run in seeds]
        cells = []
        for key in COLUMNS:
            cell = _spread([one[key] for one in found], key)
            cells.append(_reason(reasons) if cell == "-" and key in REACHED else cell)
        rows.append([name, seeds[0].algorithm, *cells])
    return columns, rows


def to_judge_by(runs: list[Measured]) -> list[Measured]:
    """The runs of which one is best: those that train, where there are any.

    The best of several answers of the start, picked by the reward, is no model that anyone could
    take away.
    """
    return [run for run in runs if run.is_trained] or runs


def best_name(runs: list[Measured], metric: str) -> str:
    """The row with the highest interquartile mean after training (`to_judge_by`); of equal ones the
    first. Only rows that could be judged with the most seeds count: one lucky seed of a row that
    failed in the others is no best."""
    after = {
        name: estimate([run.curve[-1][metric] for run in seeds])
        for name, seeds in by_name(to_judge_by(runs)).items()
    }
    most = max(found.seeds for found in after.values())
    judged = {name: found.value for name, found in after.items() if found.seeds == most > 0}
    return max(judged, key=lambda name: judged[name], default=next(iter(after)))


def budget_table(runs: list[Measured], metric: str) -> Table:
    """What each row had reached when it had spent as much as the others: a column per budget.

    A budget is a share of the most that every run has spent (those that spend none of it, such as
    tokens offline, do not count). A run's value is that of its last measurement within the budget
    (`OVER` included): nothing is interpolated. Cells are interquartile means over seeds, with a
    95 % interval from 3 seeds on.
    """
    columns = ["run"]
    cells: dict[str, list[str]] = {name: [] for name in by_name(runs)}
    for kind, form in BUDGETS.items():
        spent = [run.curve[-1][kind] for run in runs if run.curve[-1][kind] > 0]
        for share in SHARES if spent else ():
            budget = share * min(spent)
            columns.append(form.format(budget))
            for name, seeds in by_name(runs).items():
                values = [within(run, kind, budget, metric) for run in seeds]
                cells[name].append(describe(estimate(values), of=len(seeds)))
    return Table(columns, [[name, *row] for name, row in cells.items()])


def within(run: Measured, kind: str, budget: float, metric: str) -> float:
    """The value at the last measurement that cost no more than a budget and `OVER` of it; NaN where
    that could not be judged."""
    values = [point[metric] for point in run.curve if point[kind] <= budget * (1 + OVER)]
    return values[-1] if values else float("nan")


def paired_table(runs: list[Measured], metric: str, best: str) -> Table:
    """Differences to the best row after training, seed by seed and prompt by prompt: what two runs
    of one seed share (data order, start, held-out prompts) does not blur them. With one seed there
    is nothing to count, and no column that counts."""
    seeds_of = by_name(runs)
    counts = len({run.seed for run in runs}) > 1
    rows = []
    for name, seeds in seeds_of.items():
        if name == best:
            continue
        known = [gap for gap in differences(seeds, seeds_of[best], metric) if np.isfinite(gap)]
        above = sum(gap > 0 for gap in known)
        found = estimate_difference(seeds, seeds_of[best], metric)
        counted = [f"{above} of {len(known)} seeds"] if counts else []
        both = len(differences(seeds, seeds_of[best], metric))
        rows.append([name, describe(found, of=both, signed=True), *counted])
    return Table(["run", f"difference to {best}", *(["better in"] if counts else [])], rows)


def differences(runs: list[Measured], others: list[Measured], metric: str) -> list[float]:
    """A metric after training less that of another run, of every seed that both have."""
    theirs = {run.seed: run.curve[-1][metric] for run in others}
    return [run.curve[-1][metric] - theirs[run.seed] for run in runs if run.seed in theirs]


def estimate_difference(runs: list[Measured], others: list[Measured], metric: str) -> Estimate:
    """The difference of two runs, over the seeds that both have.

    Where both know what they reached on each prompt, the interval is over seeds and prompts: other
    held-out prompts would have given another difference too. Else it is over seeds alone.
    """
    theirs = {run.seed: run.by_prompt.get(metric, []) for run in others}
    pairs = [
        (run.by_prompt.get(metric, []), theirs[run.seed]) for run in runs if run.seed in theirs
    ]
    sizes = {len(side) for pair in pairs for side in pair}
    if len(sizes) != 1 or sizes == {0}:
        return estimate(differences(runs, others, metric))
    return estimate_crossed(np.array([np.subtract(*pair) for pair in pairs]))


def describe(found: Estimate, *, of: int, signed: bool = False) -> str:
    """A statistic with its interval, such as "0.612 (0.598 to 0.631)".

    Args:
      found: the statistic.
      of: seeds that there are; where fewer could be judged, that is said.
      signed: with a plus where it is not negative.
    """
    if found.value != found.value:
        return "-"
    form = "{:+.3f}" if signed else "{:.3f}"
    text = form.format(found.value)
    if found.seeds >= FEWEST:
        text += f" ({form.format(found.low)} to {form.format(found.high)})"
    return text if found.seeds == of else f"{text}, {found.seeds} of {of} seeds"


def by_name(runs: list[Measured]) -> dict[str, list[Measured]]:
    """Name -> its seeds, in the order given."""
    found: dict[str, list[Measured]] = {}
    for run in runs:
        found.setdefault(run.name, []).append(run)
    return found


def _reason(reasons: list[str]) -> str:
    """What all seeds agree on, else that none got there."""
    return reasons[0] if len(set(reasons)) == 1 else NEVER


def _spread(values: list[float], key: str) -> str:
    """Mean, with more than one seed ± unbiased standard deviation; "-" for what never happened, "2
    of 3" for sometimes."""
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return "-"
    digits = DIGITS.get(key, 3)
    text = f"{np.mean(known):,.{digits}f}"
    if len(known) > 1 and np.std(known) > 0:
        text += f" ± {np.std(known, ddof=1):,.{digits}f}"
    return text if len(known) == len(values) else f"{text} ({len(known)} of {len(values)})"
