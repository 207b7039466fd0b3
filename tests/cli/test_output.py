"""What reaches a terminal."""

import io
import logging
import sys

import pytest

from rlhf_jax.cli.output import complain, print_table, say
from rlhf_jax.console import PrintableFormatter, printable

HOSTILE = {
    "\x1b[31mred": "\\x1b[31mred",
    "bell\x07": "bell\\x07",
    "\x9b2J": "\\x9b2J",
    "over\rwritten": "over\\rwritten",
    "back\x08space": "back\\x08space",
    "\u202egnp.exe": "\\u202egnp.exe",
    "\u2066isolated\u2069": "\\u2066isolated\\u2069",
    "tag\U000e0041": "tag\\U000e0041",
    "lone \ud800": "lone \\ud800",
    "line\u2028separator": "line\\u2028separator",
}
HARMLESS = [
    "plain",
    "tab\tand\nline",
    "ä 漢字 🙂",
    "family \U0001f468\u200d\U0001f469",
    "نیم\u200cفاصله",
    "a\\\\b",
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items(), ids=ascii)
def test_what_a_terminal_obeys_is_written_out(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown


@pytest.mark.parametrize("text", HARMLESS, ids=ascii)
def test_text_stays(text):
    assert printable(text) == text


def test_say_is_raw_in_a_pipe_and_printable_on_a_terminal(monkeypatch):
    for stream, wanted in ((io.StringIO(), "\x1b[31mred\n"), (Terminal(), "\\x1b[31mred\n")):
        monkeypatch.setattr(sys, "stdout", stream)
        say("\x1b[31mred")
        assert stream.getvalue() == wanted


def test_errors_are_one_printable_line(capsys):
    complain("a column named \x1b]0;title\x07\nand more")
    assert capsys.readouterr().err == "error: a column named \\x1b]0;title\\x07 and more\n"


def test_log_lines_and_tables_are_printable(capsys):
    record = logging.LogRecord("x", logging.INFO, "x", 1, "says %s", ("\x1b[2J",), None)
    assert PrintableFormatter("%(message)s").format(record) == "says \\x1b[2J"
    print_table("title\x1b[1m", ["name\x9b"], [["cell\u202e"]])
    assert {"\x1b", "\x9b", "\u202e"}.isdisjoint(capsys.readouterr().out)
