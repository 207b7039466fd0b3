"""What reward functions log by TRL's `log_extra` and `log_metric`, as columns of the completions table and metrics."""

from collections.abc import Sequence
from typing import Any

from rlhf_jax.rewards.pool import Logged

RESERVED = frozenset(
    {"completion", "generation_batch", "kept", "prompt", "prompt_index", "reward", "sample", "split", "step", "tokens"}
    | {"trained_step", "truncated"}
)
"""Columns that the table has anyway; a logged one of that name is called ``label/column``."""


def table_columns(logged: Sequence[Logged], labels: Sequence[str], count: int) -> dict[str, list[Any]]:
    """Columns of `count` values; None where a function logged nothing. Each has one type: numbers, truth values or text.

    Two functions that log the same column, and one that logs a column of the table or the label of a reward, get
    ``label/column``.
    """
    columns: dict[tuple[int, str], list[Any]] = {}
    for log in logged:
        for name, values in log.extra.items():
            column = columns.setdefault((log.function, name), [None] * count)
            for row, value in zip(log.rows, values, strict=True):
                column[row] = value
    names = [name for _, name in columns]
    taken = RESERVED | set(labels)
    return {
        f"{labels[function]}/{name}" if name in taken or names.count(name) > 1 else name: _of_one_type(values)
        for (function, name), values in columns.items()
        if any(value is not None for value in values)  # a column of nothing has no type that other steps' files share
    }


def mean_metrics(logged: Sequence[Logged], labels: Sequence[str]) -> dict[str, float]:
    """``label/name`` -> mean over all that was logged."""
    collected: dict[str, list[float]] = {}
    for log in logged:
        for name, values in log.metrics.items():
            collected.setdefault(f"{labels[log.function]}/{name}", []).extend(values)
    return {name: sum(values) / len(values) for name, values in collected.items() if values}


def _of_one_type(values: list[Any]) -> list[Any]:
    """A file's column has one type: all numbers, all truth values, or all text."""
    there = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in there):
        return values
    if all(isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53 for value in there):
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]
