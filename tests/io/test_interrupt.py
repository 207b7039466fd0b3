"""Signals: what asks, what ends in order, and what nohup keeps."""

import signal

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
