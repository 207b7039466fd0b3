"""What a comparison found, and its files."""

import json
import pathlib
from typing import Any, NamedTuple

from rlhf_jax.fields import documented
from rlhf_jax.io import plot_curves
from rlhf_jax.io.markdown import markdown_table
from rlhf_jax.runs.budgets import OVER, Measured, Table
from rlhf_jax.runs.kept import finite

AT_BUDGETS = (
    "Held-out accuracy at equal budgets of generated tokens, steps and seconds of training "
    "(without start, compilation and evaluations): the last measurement within the budget "
    f"(or up to {OVER:.0%} over it)"
)
MEAN_AT_BUDGETS = "interquartile mean over seeds, with a 95 % bootstrap interval from 3 seeds on"
ENDED = (
    "Held-out metrics after training, and of the model that all go on from: interquartile mean "
    "over seeds, with a 95 % bootstrap interval from 3 seeds on"
)
ENDED_ONE = "Held-out metrics after training, and of the model that all go on from"
TUNED = (
    "What each value reached on the tuning seeds, which are in no other table; the bold one is "
    "taken"
)
PAIRED = (
    "Difference to the best row that trains, seed by seed; from 3 seeds on with a 95 % "
    "bootstrap interval over seeds and held-out prompts"
)
PAIRED_ONE = (
    "Difference to the best row that trains. It is of one seed, and another may give another: "
    "from 3 seeds on there is an interval"
)


@documented
class Comparison(NamedTuple):
    """What a comparison found."""

    metric: str
    """The held-out metric compared."""
    target: float
    """`reach` of the best value that a run had which trains, where one does."""
    runs: list[Measured]
    columns: list[str]
    rows: list[list[str]]
    """The table: one row per name, mean ± standard deviation over seeds."""
    best: str
    """Name of the best row after training, by interquartile mean."""
    ended: Table
    """Held-out metrics that each row ended with."""
    tuning: Table
    """What the values of `tuning` reached; without rows: nothing was tuned."""
    budgets: Table
    """What each row had reached at equal budgets."""
    paired: Table
    """How the others differ from the best row, seed by seed."""
    seconds: dict[str, float]
    """Wall time of every stage."""
    folder: pathlib.Path

    @property
    def num_seeds(self) -> int:
        """Seeds of the runs."""
        return len({run.seed for run in self.runs})


def write(found: Comparison, *, reach: float) -> None:
    """compare.json (everything), compare.md (the table) and compare.png (learning curves)."""
    # What was reached on each prompt stands in results.json.
    runs = [
        {name: value for name, value in run._asdict().items() if name != "by_prompt"}
        for run in found.runs
    ]
    document = {
        "metric": found.metric,
        "target": found.target,
        "seconds": found.seconds,
        "best": found.best,
        "ended": found.ended._asdict(),
        "tuning": found.tuning._asdict(),
        "budgets": found.budgets._asdict(),
        "paired": found.paired._asdict(),
        "runs": runs,
    }
    text = json.dumps(finite(document), indent=1)
    (found.folder / "compare.json").write_text(text, encoding="utf-8")
    (found.folder / "compare.md").write_text(as_markdown(found), encoding="utf-8")
    curves: dict[str, list[Any]] = {}
    for run in found.runs:
        points = [(point["step"], point["seconds"], point[found.metric]) for point in run.curve]
        curves.setdefault(run.name, []).append(points)
    plot_curves(
        curves,
        found.folder / "compare.png",
        metric=found.metric,
        level=found.target,
        reach=reach,
        clock="seconds of training, without start, compilation and evaluations",
    )


def as_markdown(found: Comparison) -> str:
    """The tables, each below a sentence that says what it holds; the best row is bold."""
    first = Table(found.columns, found.rows)
    is_one = found.num_seeds == 1
    over = "One seed" if is_one else "Mean and standard deviation over seeds"
    at_budgets = AT_BUDGETS if is_one else f"{AT_BUDGETS}; {MEAN_AT_BUDGETS}"
    parts = [
        f"{ENDED_ONE if is_one else ENDED}\n\n{_rows(found.ended, found.best)}",
        f"Held-out {found.metric.removeprefix('accuracy/')} and what it took. {over}; the best row "
        f"is bold.\n\n{_rows(first, found.best)}",
        f"{at_budgets}\n\n{_rows(found.budgets, found.best)}",
    ]
    if found.paired.rows:
        paired = PAIRED_ONE if is_one else PAIRED
        parts.append(f"{paired}\n\n{_rows(found.paired, found.best)}")
    if found.tuning.rows:
        parts.append(f"{TUNED}\n\n{_rows(found.tuning, best=None)}")
    return "\n\n".join(parts) + "\n"


def _rows(shown: Table, best: str | None) -> str:
    """A table of Markdown; the row of that name is bold."""
    bold = [
        [f"**{cell}**" if cell else "" for cell in row] if row[0] == best else row
        for row in shown.rows
    ]
    return markdown_table(shown.columns, bold)
