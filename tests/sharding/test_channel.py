"""Messages between processes, tried with threads of one: no device takes part."""

import os
import socket
import threading
import time

import pytest

from rlhf_jax.errors import LostError, PeerError
from rlhf_jax.sharding.channel import LOST, Failure
from rlhf_jax.sharding.door import Door, enter
from tests.sharding.threads import KEY, PATIENT


def test_everybody_gets_everything_in_order(group):
    three = group(3)
    for step in range(20):
        found = three.all(lambda c, step=step: c.exchange("s", (c.process, step), timeout=PATIENT))
        assert found == [[(0, step), (1, step), (2, step)]] * 3


def test_a_late_process_does_not_mix_two_exchanges(group):
    two = group(2)

    def work(channel):
        if channel.process == 0:
            time.sleep(0.2)
        return [channel.exchange(name, channel.process, timeout=PATIENT) for name in "ab"]

    assert two.all(work) == [[[0, 1], [0, 1]]] * 2


def test_large_values_pass(group):
    payload = bytes(5_000_000)
    found = group(2).all(lambda c: c.exchange("large", payload, timeout=PATIENT))
    assert found == [[payload, payload]] * 2


def test_different_places_are_an_error_everywhere(group):
    found = group(2).all(lambda c: c.exchange(f"at {c.process}", 1, timeout=PATIENT))
    assert all(isinstance(error, LostError) for error in found)
    line = "process 1 is at 'at 1' where process 0 is at 'at 0'"
    assert [str(error) for error in found] == [line, line]


def test_one_who_does_not_come_is_named(group):
    three = group(3)
    found = three.all(lambda c: c.process == 1 or c.exchange("grades", 0, timeout=0.3))
    assert found[1] is True
    for error in (found[0], found[2]):
        assert isinstance(error, LostError)
        assert str(error).startswith("process 1 of 3 has not come to 'grades'")


def test_a_closed_connection_is_a_lost_process(group):
    three = group(3)
    began = time.monotonic()
    # What the kernel does with the connections of a process that is killed.
    ended = socket.socket(fileno=os.dup(three.channels[2]._connections[0].fileno()))
    ended.shutdown(socket.SHUT_RDWR)
    ended.close()
    found = three.all(lambda c: c.process == 2 or c.exchange("step", 0, timeout=PATIENT))
    assert "process 2 of 3 has ended" in str(found[0]) == str(found[1])
    assert time.monotonic() - began < 5
    assert Failure(2, str(found[0]), LOST) in three.failures


def test_a_silent_process_is_lost(group):
    two = group(2, beat=0.05, silence=0.4)
    silent = two.channels[1]
    silent._beat = 1000.0  # as if it were stopped: nothing is sent any more
    found = two.all(lambda c: c.process == 1 or c.exchange("step", 0, timeout=PATIENT))
    assert "process 1 of 2 has been silent" in str(found[0])


def test_beats_keep_a_busy_process(group):
    two = group(2, beat=0.05, silence=0.4)

    def work(channel):
        time.sleep(1.0 * channel.process)
        return channel.exchange("step", channel.process, timeout=PATIENT)

    assert two.all(work) == [[0, 1], [0, 1]]


def test_a_failure_is_told_to_all_with_its_code(group):
    three = group(3)
    three.channels[1].fail("the disk is full", 4)
    found = three.all(lambda c: c.process == 1 or c.exchange("step", 0, timeout=PATIENT))
    for error in (found[0], found[2]):
        assert (str(error), error.exit_code) == ("the disk is full", 4)


def test_a_goodbye_is_no_loss(group):
    two = group(2)
    two.all(lambda c: c.close(timeout=PATIENT))
    time.sleep(0.1)
    assert two.failures == []


def test_who_never_comes_is_named_in_time():
    began = time.monotonic()
    with pytest.raises(LostError, match="process 1, 2 of 3 has not reached process 0"):
        Door(KEY).admit(3, timeout=0.3)
    assert time.monotonic() - began < 3


def test_a_stranger_is_sent_away():
    door = Door(KEY)
    stranger = threading.Thread(
        target=lambda: pytest.raises(
            LostError, enter, 1, [("127.0.0.1", door.port)], b"guess", timeout=0.3
        )
    )
    stranger.start()
    with pytest.raises(LostError, match="process 1 of 2"):
        door.admit(2, timeout=1.0)
    stranger.join()


class Poison:
    """Cannot be read where it arrives."""

    def __reduce__(self):
        return int, ("no number",)


@pytest.mark.parametrize("sender", [0, 1])
def test_a_message_that_cannot_be_read_ends_all_with_its_reason(sender, group):
    three = group(3)

    def work(channel):
        value = Poison() if channel.process == sender else 0
        channel.exchange("step", value, timeout=PATIENT)
        # The leader reads nothing that comes of it, and hears of the error.
        channel.exchange("next", 0, timeout=PATIENT)

    for error in three.all(work):
        assert isinstance(error, LostError)
        assert f"cannot read a message of process {sender} (ValueError: invalid" in str(error)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_that_nobody_comes_to_hear_is_a_loss_everywhere(failing, group):
    """After a `PeerError` all save together: it must not be raised where the others do not come."""
    two = group(2)
    failure = Failure(failing, "the grader has had enough", 5)

    def work(channel):
        if channel.process == failing:
            return channel.exchange("an error", None, timeout=0.3, failure=failure)
        found = channel.failed_within(PATIENT)
        return found and channel.exchange("later", 0, timeout=PATIENT)

    for error in two.all(work):
        assert isinstance(error, LostError) and not isinstance(error, PeerError)
        assert (str(error), error.exit_code) == ("the grader has had enough", 5)


def test_who_gave_no_answer_is_said_with_the_limit(group):
    two = group(2, silence=0.1, beat=1000.0)
    found = two.all(lambda c: c.process == 0 or c.exchange("grades", 0, timeout=0.2))
    line = "process 0 of 2 gave no answer at 'grades' within 0 seconds "
    assert str(found[1]) == line + "(distributed.exchange_timeout)"


def test_without_a_limit_a_busy_process_is_waited_for(group):
    two = group(2, beat=0.05, silence=0.2)

    def work(channel):
        time.sleep(0.6 * (channel.process == 0))
        return channel.exchange("tokenizer", channel.process, timeout=None)

    assert two.all(work) == [[0, 1]] * 2


def test_nothing_is_exchanged_after_the_end(group):
    two = group(2)
    two.all(lambda c: c.close(timeout=1.0, has_failed=True))
    for error in two.all(lambda c: c.exchange("row", 0, timeout=PATIENT)):
        assert isinstance(error, LostError) and "has ended" in str(error)


def test_one_who_says_nothing_keeps_nobody_waiting():
    door = Door(KEY)
    with socket.create_connection(("127.0.0.1", door.port)):
        address = [("127.0.0.1", door.port)]
        late = threading.Thread(target=enter, args=(1, address, KEY), kwargs={"timeout": PATIENT})
        late.start()
        began = time.monotonic()
        assert list(door.admit(2, timeout=PATIENT)) == [1]
        assert time.monotonic() - began < 5
        late.join()


def test_a_leader_that_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr("rlhf_jax.sharding.door._PROOF_SECONDS", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        pytest.raises(LostError, match="process 1 cannot reach process 0 within 0 seconds"),
    ):
        enter(1, [mute.getsockname()], KEY, timeout=0.3)
