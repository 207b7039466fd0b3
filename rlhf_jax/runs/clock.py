"""What a run has cost until each of its rows: seconds of training, seconds of compiling, tokens
that it generated."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]
"""Of metrics.jsonl: `step`, `split` and metrics."""


class Cost(NamedTuple):
    """Until the end of a row."""

    seconds: float
    """Of training: start, evaluations and compilation do not count."""
    compiling: float
    """Seconds of tracing and compiling, or of reading compiled programs."""
    evaluating: float
    """Seconds of evaluations, their compilation included."""
    tokens: float
    """Completion tokens generated for training. Where not every step has a row, the steps between
    are taken to be like the one that has."""


def costs(rows: Sequence[Row]) -> list[Cost]:
    """What was spent until each row.

    Args:
      rows: all of a run, in their order.

    Returns:
      One `Cost` per row; none of their fields ever falls.
    """
    start = start_seconds(rows)
    spent = Cost(0.0, 0.0, 0.0, 0.0)
    compiled_in_steps = 0.0
    step = 0
    found = []
    for row in rows:
        compiling = _number(row, "time/compile")
        tokens = 0.0
        if row["split"] == "eval":
            evaluating = _number(row, "time/evaluate")
        else:
            evaluating = 0.0
            # what was compiled for an evaluation is part of its time already
            compiled_in_steps += compiling
            tokens = _number(row, "data/tokens_generated") * max(row["step"] - step, 0)
            step = row["step"]
        evaluated = spent.evaluating + evaluating
        elapsed = _number(row, "time/elapsed")
        spent = Cost(
            seconds=max(spent.seconds, elapsed - start - evaluated - compiled_in_steps),
            compiling=spent.compiling + compiling,
            evaluating=evaluated,
            tokens=spent.tokens + tokens,
        )
        found.append(spent)
    return found


def start_seconds(rows: Sequence[Row]) -> float:
    """Seconds before the first step, without the evaluation of the start: loading the model and the
    data, and whatever was compiled for that."""
    first = next((row for row in rows if row["split"] == "train"), None)
    before = 0.0
    for row in rows:
        if row["split"] != "eval" or row["step"] > 0:
            break
        before += _number(row, "time/evaluate")
    if rows and rows[0]["split"] == "eval" and rows[0]["step"] == 0:
        return max(_number(rows[0], "time/elapsed") - before, 0.0)
    if first is None:
        return 0.0
    steps = first["step"] * _number(first, "time/step")
    return max(_number(first, "time/elapsed") - before - steps, 0.0)


def knows_compiling(rows: Sequence[Row]) -> bool:
    """Whether the run has noted what it compiled; every one does that has made a step."""
    return any("time/compile" in row for row in rows)


def _number(row: Row, name: str) -> float:
    value = row.get(name, 0.0)
    return float(value) if isinstance(value, int | float) and value == value else 0.0
