"""What asks a session to end."""

import time
import types

import pytest

from rlhf_jax.config import TrainingConfig
from rlhf_jax.config.sections import seconds_of
from rlhf_jax.runs.session import Stop, stop_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3h50m", 13_800), ("90m", 5_400), ("1h30m20s", 5_420), ("45s", 45), (None, None)],
)
def test_times(text, seconds):
    assert seconds_of("training.save_before", text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "3", "50m3h", "0h", "3h 50m", "1.5h"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match=r"training\.save_before=.*as in 3h50m"):
        TrainingConfig(save_before=text)


def test_a_session_ends_when_its_time_is_over():
    request = types.SimpleNamespace(signum=None)
    stop = Stop(request, "1h", time.monotonic() - 3_590)
    assert not stop()
    assert Stop(request, "1h", time.monotonic() - 3_601)()


def test_a_signal_ends_it_and_a_callback_is_told_apart():
    request = types.SimpleNamespace(signum=None)
    recorder = types.SimpleNamespace(wants_stop=False)
    stop = Stop(request, None, time.monotonic())
    stopped = stop_of(stop, recorder)
    assert not stopped()
    recorder.wants_stop = True
    assert stopped()
    assert not stop(), "a callback is no interruption"
    request.signum = 15
    assert stop()
