"""What commands print: tables and summaries on standard output."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlhf_jax.console import printable

WIDTH = 120
"""Columns when the output is no terminal."""


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0
) -> None:
    """Print a table; the last `numbers` columns are right-aligned."""
    from rich.console import Console  # heavy
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for index, column in enumerate(columns):
        right = index >= len(columns) - numbers
        table.add_column(
            Text(printable(column)), justify="right" if right else "left", no_wrap=index == 0
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=WIDTH)
    console.print(Text(printable(title)), soft_wrap=True)
    console.print(table)


def print_metrics(title: str, columns: Mapping[str, Mapping[str, float]]) -> None:
    """Print metrics side by side.

    Args:
        title: above the table.
        columns: heading -> metric -> value, such as {"before": {...}, "after": {...}}.
    """
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    rows = [
        [name, *(format_number(column.get(name)) for column in columns.values())] for name in names
    ]
    print_table(title, ["metric", *columns], rows, numbers=len(columns))


def format_number(value: Any) -> str:
    """Four significant digits, whole numbers in full, `-` for a value that is not there."""
    if value is None:
        return "-"
    number = float(value) + 0.0  # -0 is 0
    return f"{number:,.0f}" if number.is_integer() and abs(number) >= 10 else f"{number:.4g}"


def say(text: str) -> None:
    """Print a line to standard output: printable on a terminal, as it is into a file or pipe."""
    print(printable(text) if sys.stdout.isatty() else text, flush=True)


def complain(text: str) -> None:
    """Print an error as one printable line to standard error."""
    print(f"error: {printable(' '.join(text.split()))}", file=sys.stderr)
