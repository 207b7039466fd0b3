"""What of the log is shown on standard error, and how: plain lines, of which a terminal obeys none.

A command shows its log always; a program that calls `train` does while a run goes on, unless it has
said itself what is to become of logs.
"""

import logging
import os
import re
import sys
from collections.abc import Callable

PACKAGE = "rlhf_jax"
STEPS = "rlhf_jax.io.progress.steps"
"""Logger of lines that a live display shows in its own way."""
DETAILS = ".details"
"""Loggers whose names end so write for log.txt alone."""
YELLOW = "\x1b[33m"
PLAIN = "\x1b[0m"
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


class ScreenFormatter(PrintableFormatter):
    """Plain lines; on a terminal warnings stand out, a diagnosis among them."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        line = super().format(record)
        is_coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        return (
            f"{YELLOW}{line}{PLAIN}" if is_coloured and record.levelno >= logging.WARNING else line
        )


class CurrentStderr:
    """Writes to whatever `sys.stderr` is now: the live display replaces it, lines come above."""

    def write(self, text: str) -> int:
        """As a file's."""
        return sys.stderr.write(text)

    def flush(self) -> None:
        """As a file's."""
        sys.stderr.flush()


def stderr_handler(*, live: bool) -> logging.Handler:
    """Shows log records on standard error, without times and names.

    Args:
      live: there is a live display, which shows the steps itself.
    """
    handler = logging.StreamHandler(CurrentStderr())
    handler.setFormatter(ScreenFormatter("%(message)s"))
    handler.addFilter(lambda record: not record.name.endswith(DETAILS))
    handler.addFilter(lambda record: not (live and record.name == STEPS))
    return handler


def show_in_program(progress: bool | None) -> Callable[[], None]:
    """Shows the library's log on standard error, where the program has not said what is to become
    of it: so a run in a script or a notebook is followed like one from the command line.

    A program decides by itself once it has given a handler to the logger "rlhf_jax" or turned its
    `propagate` off, or to the root logger anything but a plain stream or a level of INFO or below.

    Args:
      progress: as for `train`; False: warnings alone are shown.

    Returns:
      What ends it.
    """
    package = logging.getLogger(PACKAGE)
    root = logging.getLogger()
    # orbax imports absl, whose first message gives the root logger a plain stream unasked: it would
    # write each line with its logger's name, through the live display.
    unasked = root.getEffectiveLevel() > logging.INFO and all(
        type(handler) is logging.StreamHandler for handler in root.handlers
    )
    own = [handler for handler in package.handlers if not isinstance(handler, logging.FileHandler)]
    if own or not package.propagate or not unasked:
        return lambda: None
    live = sys.stderr.isatty() if progress is None else progress
    shown = stderr_handler(live=live)
    if progress is False:
        shown.setLevel(logging.WARNING)
    muted = list(root.handlers)
    package.addHandler(shown)
    for handler in muted:
        handler.addFilter(_is_others)

    def end() -> None:
        package.removeHandler(shown)
        for handler in muted:
            handler.removeFilter(_is_others)

    return end


def _is_others(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] != PACKAGE
