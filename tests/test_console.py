"""What of the log is shown, in a program that has not said what is to become of logs."""

import io
import logging

import pytest

from rlhf_jax.console import CurrentStderr, ScreenFormatter, show_in_program

_log = logging.getLogger("rlhf_jax.some.where")


@pytest.fixture
def plain_root(monkeypatch):
    """Makes loggers as absl leaves them, which gives the root logger a plain handler unasked.

    Called inside of a test, because pytest adds handlers of its own only then."""
    root = logging.getLogger()
    package = logging.getLogger("rlhf_jax")

    def make():
        stream = io.StringIO()
        monkeypatch.setattr(root, "handlers", [logging.StreamHandler(stream)])
        monkeypatch.setattr(root, "level", logging.WARNING)
        monkeypatch.setattr(package, "handlers", [])
        monkeypatch.setattr(package, "propagate", True)
        package.setLevel(logging.INFO)
        return stream

    before = package.level
    yield make
    package.setLevel(before)


def tell():
    _log.info("a line \x1b[2J")
    _log.warning("a warning")
    logging.getLogger("rlhf_jax.some.where.details").info("a detail")
    logging.getLogger("rlhf_jax.io.progress.steps").info("a step")
    logging.getLogger("other").warning("of another library")


def test_lines_are_plain_and_told_once(plain_root, capsys):
    stream = plain_root()
    end = show_in_program(None)
    tell()
    assert capsys.readouterr().err == "a line \\x1b[2J\na warning\na step\n"
    assert stream.getvalue() == "of another library\n"
    end()
    _log.info("afterwards")
    assert capsys.readouterr().err == ""
    assert stream.getvalue().endswith("library\nafterwards\n")


@pytest.mark.parametrize(
    ("progress", "shown"), [(True, "a line \\x1b[2J\na warning\n"), (False, "a warning\n")]
)
def test_a_live_display_shows_steps_itself_and_without_progress_only_warnings_are(
    plain_root, capsys, progress, shown
):
    plain_root()
    end = show_in_program(progress)
    tell()
    end()
    assert capsys.readouterr().err == shown


@pytest.mark.parametrize("decided", ["level", "file", "handler", "silence"])
def test_a_program_that_has_decided_is_left_alone(plain_root, capsys, tmp_path, decided):
    stream = plain_root()
    root = logging.getLogger()
    package = logging.getLogger("rlhf_jax")
    own = logging.FileHandler(tmp_path / "own.log")
    if decided == "level":
        root.level = logging.INFO
    elif decided == "file":
        root.addHandler(own)
    elif decided == "handler":
        package.addHandler(logging.NullHandler())
    else:
        package.propagate = False
    before = list(package.handlers)
    end = show_in_program(None)
    assert package.handlers == before
    _log.info("a line")
    assert ("a line" in stream.getvalue()) == (decided != "silence")
    end()
    own.close()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("no_color", ["", "1"])
def test_on_a_terminal_warnings_stand_out(monkeypatch, no_color):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", no_color)
    lines = {
        level: ScreenFormatter("%(message)s").format(
            logging.LogRecord("x", level, "", 0, "\x1b[2J", None, None)
        )
        for level in (logging.INFO, logging.WARNING)
    }
    assert lines[logging.INFO] == "\\x1b[2J"
    assert lines[logging.WARNING] == ("\\x1b[2J" if no_color else "\x1b[33m\\x1b[2J\x1b[0m")


def test_it_writes_to_whatever_standard_error_is_now(monkeypatch):
    handler = logging.StreamHandler(CurrentStderr())
    other = io.StringIO()
    monkeypatch.setattr("sys.stderr", other)
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "a line", None, None))
    assert other.getvalue() == "a line\n"
