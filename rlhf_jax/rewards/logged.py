"""What rewards log by TRL's `log_extra` and `log_metric`: columns of completions, and metrics."""

from collections.abc import Collection, Sequence
from typing import Any

from rlhf_jax.rewards.pool import Logged


def table_columns(
    logged: Sequence[Logged], labels: Sequence[str], count: int, *, reserved: Collection[str]
) -> dict[str, list[Any]]:
    """Columns of `count` values; None where a function logged nothing.

    Two functions that log the same column, and one that logs a `reserved` column (one that the
    table has anyway) or the label of a reward, get ``label/column``.
    """
    columns: dict[tuple[int, str], list[Any]] = {}
    for log in logged:
        for name, values in log.extra.items():
            column = columns.setdefault((log.function, name), [None] * count)
            for row, value in zip(log.rows, values, strict=True):
                column[row] = value
    names = [name for _, name in columns]
    taken = {*reserved, *labels}
    return {
        f"{labels[function]}/{name}" if name in taken or names.count(name) > 1 else name: values
        for (function, name), values in columns.items()
        # a column of nothing has no type that other steps' files share
        if any(value is not None for value in values)
    }


def mean_metrics(logged: Sequence[Logged], labels: Sequence[str]) -> dict[str, float]:
    """``label/name`` -> mean over all that was logged."""
    collected: dict[str, list[float]] = {}
    for log in logged:
        for name, values in log.metrics.items():
            collected.setdefault(f"{labels[log.function]}/{name}", []).extend(values)
    return {name: sum(values) / len(values) for name, values in collected.items() if values}
