"""Signals: what asks, what ends in order, and what nohup keeps."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from rlhf_jax.io.interrupt import StopRequest, ending_in_order


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize(
    "signals", ["SIGHUP", "SIGHUP SIGHUP SIGHUP", "SIGTERM SIGHUP", "SIGHUP SIGTERM"]
)
def test_a_hangup_asks_and_never_kills(signals):
    with StopRequest() as stop:
        for name in signals.split():
            signal.raise_signal(signal.Signals[name])
        assert stop.signum == signal.Signals[signals.split()[0]]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_in_order(), StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.signum is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_outside_of_the_loop_ends_in_order(signum):
    with pytest.raises(KeyboardInterrupt), ending_in_order():
        signal.raise_signal(signum)
    assert signal.getsignal(signum) is signal.SIG_DFL


def compute(seconds: float) -> None:
    """Some seconds in one call that no handler of Python can interrupt."""
    rounds = 20_000
    began = time.monotonic()
    hashlib.pbkdf2_hmac("sha256", b"", b"", rounds)
    pace = (time.monotonic() - began) / rounds
    hashlib.pbkdf2_hmac("sha256", b"", b"", int(seconds / pace))


def press(*moments: float) -> None:
    for moment in moments:
        threading.Timer(moment, os.kill, (os.getpid(), signal.SIGINT)).start()


class Heard(logging.Handler):
    """When what was said."""

    def __init__(self):
        super().__init__()
        self.said = []
        self.began = time.monotonic()

    def emit(self, record):
        self.said.append((record.getMessage(), time.monotonic() - self.began))


@pytest.fixture
def heard():
    handler = Heard()
    log = logging.getLogger("rlhf_jax.io.interrupt")
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    yield handler
    log.removeHandler(handler)
    log.setLevel(level)


def test_ctrl_c_is_answered_while_something_is_computed(heard):
    with StopRequest() as stop:
        press(0.2)
        compute(1.5)
        done = time.monotonic() - heard.began
    assert stop.signum == signal.SIGINT
    ((text, when),) = heard.said
    assert text == "stopping after this step, then saving; Ctrl-C again ends at once"
    assert when < 0.5 * done


def test_the_second_one_says_what_was_saved(heard):
    with (
        pytest.raises(KeyboardInterrupt),
        ending_in_order(),  # which is not asked while an inner one listens
        StopRequest(lambda: "saved last was step 40"),
    ):
        press(0.1, 0.4)
        for _ in range(100):
            time.sleep(0.05)
    assert [text for text, _ in heard.said] == [
        "stopping after this step, then saving; Ctrl-C again ends at once",
        "ending at once; saved last was step 40",
    ]
    assert signal.set_wakeup_fd(-1) == -1


def test_outside_of_a_loop_it_is_answered_too(heard):
    with pytest.raises(KeyboardInterrupt), ending_in_order():
        press(0.1)
        compute(0.8)
        time.sleep(5)
    assert heard.said[0][0].startswith("ending as soon as what is being computed is done")
    assert heard.said[0][1] < 0.5


BLOCKED = """
import hashlib, sys
from rlhf_jax.io import interrupt
interrupt.GRACE = 0.3
with interrupt.StopRequest(lambda: "saved last was step 3"):
    print("in", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


def test_the_second_one_ends_a_process_that_only_computes():
    """It would take minutes until Python's own handler came to run."""
    with subprocess.Popen([sys.executable, "-c", BLOCKED], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"in\n"
        for _ in range(2):
            time.sleep(0.3)
            child.send_signal(signal.SIGINT)
        assert child.wait(timeout=20) == 130
