"""Several steps' metrics as one row."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

LAST = re.compile(
    r"lr|epoch|step|kl/coef|data/(epoch|prompts_retired|steps_skipped|groups_left)"
    r"|update/skipped_(in_a_row|total)|time/elapsed"
)
"""Counters, and settings that follow a schedule: a row says what they are, not what they were."""


def averaged(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row of several: means of what differs from step to step by chance.

    Args:
      rows: metrics of consecutive steps, the newest last.

    Returns:
      Every metric that a row has: largest of those that end in `_max`, smallest of `_min`, the
      newest of `LAST`, the mean of the others over the rows in which they are finite.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _of(name, [row[name] for row in rows if name in row]) for name in names}


def _of(name: str, values: Sequence[Any]) -> Any:
    if len(values) == 1 or LAST.fullmatch(name) or isinstance(values[-1], str):
        return values[-1]
    finite = [float(value) for value in values if math.isfinite(value)]
    if not finite:
        return values[-1]
    if name.endswith("_max"):
        return max(finite)
    if name.endswith("_min"):
        return min(finite)
    return statistics.fmean(finite)
