"""What commands print: tables and summaries on standard output."""

import logging
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WIDTH = 120
"""Columns when the output is no terminal."""
_COMMANDS = re.compile(
    # control characters but tab and line feed: colours, cursor, title, bell
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"
    # line separators, and what turns the direction of text round
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff\ufeff\U000e0000-\U000e007f]"  # what cannot be encoded, and what no font shows
)
"""Characters that a terminal obeys, or shows as another text, instead of printing them."""


def printable(text: str) -> str:
    """Text with every character that a terminal would obey written out (``\\x1b``, ``\\u202e``).

    What a model, a data file or a reward function says may be anyone's: it must not move the
    cursor, set the window's title or hide part of itself.
    """
    return _COMMANDS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class PrintableFormatter(logging.Formatter):
    """Formats log records as printable text."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        return printable(super().format(record))


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
