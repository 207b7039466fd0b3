"""What a run shows while it goes on."""

import logging
import re

import pytest

from rlhf_jax.io import Part, Progress, shown_as
from rlhf_jax.io.progress import clock


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.INFO, logger="rlhf_jax")
    return caplog


def test_lines_are_thinned_out(told):
    with Progress(1000, live=False) as progress:
        for step in range(1, 1001):
            progress.update(step, {"loss/total": 1.0})
        progress.update(1000, {"loss/total": 1.0}, split="eval")
    assert len(told.messages) == 102
    assert told.messages[0] == "step 1/1000: loss 1.000 · 0:00 elapsed"
    assert told.messages[-2].endswith("0:00 elapsed, 0:00 left")
    assert told.messages[-1] == "step 1000/1000 held-out: loss 1.000"


def test_steps_and_evaluations_have_loggers_of_their_own(told):
    """A terminal shows steps in its bar, and evaluations above it."""
    with Progress(1, live=False) as progress:
        progress.update(1, {"loss/total": 1.0})
        progress.update(1, {"loss/total": 1.0}, split="eval")
    names = [record.name for record in told.records]
    assert names == ["rlhf_jax.io.progress.steps", "rlhf_jax.io.progress"]


def test_means_of_the_last_steps_and_their_change_since_the_first(told):
    with Progress(40, live=False, online=True) as progress:
        for step in range(1, 41):
            progress.update(step, {"rewards/mean": step / 100, "loss/total": -1e-9})
    assert told.messages[0].startswith("step 1/40: reward 0.010 · ")
    # four steps' mean, beside that of the first four
    assert told.messages[-1].startswith("step 40/40: reward 0.385 (+0.360) · ")
    assert "loss" not in "".join(told.messages)


def test_a_resumed_run_counts_from_its_beginning(told):
    history = [{"step": step, "split": "train", "rewards/mean": 0.1} for step in range(1, 11)]
    history.append({"step": 10, "split": "eval", "accuracy/greedy": 0.2})
    with Progress(20, start_step=10, live=False, online=True, history=history) as progress:
        progress.update(11, {"rewards/mean": 0.5})
        progress.update(11, {"accuracy/greedy": 0.5}, split="eval")
    assert told.messages[0].startswith("step 11/20: reward 0.300 (+0.200) · ")
    assert told.messages[1] == "step 11/20 held-out: right greedy 20% -> 50%"


def test_time_left_is_the_median_pace_so_that_compiling_does_not_count(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("rlhf_jax.io.progress.time.monotonic", lambda: now[0])
    progress = Progress(3604, start_step=10, live=False)
    for step, moment in ((11, 500.0), (12, 502.0), (13, 504.0), (14, 506.0)):
        now[0] = moment
        progress.update(step, {"loss/total": 1.0})
        if step == 11:
            assert progress.times() == "6:40 elapsed"
    assert progress.times() == "6:46 elapsed, 1:59:40 left"


def test_clock():
    assert [clock(x) for x in (6.4, 754, 3600, 3725)] == ["0:06", "12:34", "1:00:00", "1:02:05"]


@pytest.fixture
def terminal(monkeypatch, capsys):
    """What a terminal of 160 columns is sent."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    return lambda: re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)


def test_the_live_display(terminal):
    with Progress(4, live=True, description="grpo", online=True) as progress:
        progress.busy("compiling update (4 x 8 tokens), once per shape")
        progress._display.refresh()
        assert "compiling update (4 x 8 tokens), once per shape: 0:00" in terminal()
        progress.busy(None)
        for step in range(1, 5):
            progress.update(step, {"rewards/mean": 0.5, "tokens_per_second": 1234.0})
    shown = terminal()
    assert "reward 0.500 · tok/s 1,234" in shown
    assert "grpo" in shown and "4/4" in shown and "0:00 elapsed, 0:00 left" in shown


def test_a_part_of_something_larger_says_so(terminal, told):
    with shown_as(Part("2 of 6 dpo", 5)), Progress(100, live=True, description="x") as progress:
        for step in range(1, 101):
            progress.update(step, {"loss/total": 1.0})
    assert "2 of 6 dpo" in terminal()
    assert len(told.messages) == 6  # the first step, and each twentieth
