"""What tests of signals need."""

import signal

import pytest


@pytest.fixture
def hangups():
    """SIGHUP as a program meets it that was not started under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
