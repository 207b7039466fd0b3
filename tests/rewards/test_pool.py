"""Graders that hang, raise, crash or return nothing cost their completion and nothing else."""

import logging
import math
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from rlhf_jax.cli.main import exit_code
from rlhf_jax.rewards import PoolConfig, RewardConfig, make_rewards
from rlhf_jax.rewards.errors import RewardProcessError

GRADERS = pathlib.Path(__file__).with_name("graders.py")


def _open(function, *, workers=2, timeout=0.5, batched=False, **options):
    config = RewardConfig(function=f"{GRADERS}:{function}", options=options, batched=batched)
    return make_rewards([config], PoolConfig(workers=workers, timeout=timeout))


def _score(rewards, words):
    return rewards.score(["p"] * len(words), words, [[1]] * len(words), {})


def _processes(rewards):
    return [worker.pid for worker in rewards._rooms[0].pool._workers]


def _gone(pid, seconds=5.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(scope="module")
def by_word():
    with _open("by_word") as rewards:
        yield rewards


def test_bad_graders_in_one_batch(by_word, caplog):
    words = (
        ["good"] * 5
        + ["hang", "raise", "none", "exit"]
        + ["good"] * 30
        + ["kill", "loop", "segfault"]
        + ["good"] * 5
    )
    start = time.monotonic()
    with caplog.at_level(logging.INFO):
        scores = _score(by_word, words)
    assert time.monotonic() - start < 6.0, "two graders hang for 0.5 s each"
    good = np.array([word == "good" for word in words])
    np.testing.assert_array_equal(scores.total[good], 4.0)
    assert np.isnan(scores.total[~good]).all()
    assert scores.failures == {
        "by_word/timeout": 2,
        "by_word/error": 1,
        "by_word/none": 1,
        "by_word/crash": 3,
    }
    assert scores.total.dtype == np.float32 and scores.by_name["by_word"].dtype == np.float32
    messages = [
        record.getMessage() for record in caplog.records if "by_word" in record.getMessage()
    ]
    assert len(messages) == 4, "each kind once"
    assert any("KeyError: 'no such thing'" in message for message in messages)


def test_the_pool_is_whole_afterwards(by_word):
    scores = _score(by_word, ["abc"] * 10)
    assert scores.total.tolist() == [3.0] * 10 and scores.failures == {}


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("system exit", "error"),
        ("memory", "error"),
        ("infinite", "error"),
        ("text", "error"),
        ("two values", "error"),
        ("nan", "none"),
        ("stop", "timeout"),
    ],
)
def test_other_failures(by_word, word, kind):
    scores = _score(by_word, ["ab", word, "abc"])
    assert scores.total[[0, 2]].tolist() == [2.0, 3.0] and math.isnan(scores.total[1])
    assert scores.failures == {f"by_word/{kind}": 1}


def test_every_worker_may_be_lost_again_and_again(by_word):
    scores = _score(by_word, ["exit"] * 30 + ["good"])
    assert scores.failures == {"by_word/crash": 30} and scores.total[-1] == 4.0


def test_async_functions_run_together_and_fail_alone():
    with _open("by_word_async", timeout=1.0) as rewards:
        start = time.monotonic()
        scores = _score(rewards, ["good"] * 40)
        assert time.monotonic() - start < 2.0, "40 waits of 0.1 s on two workers"
        assert scores.total.tolist() == [4.0] * 40
        words = ["good"] * 3 + ["sleeps", "raise", "exit", "none"] + ["good"] * 20
        scores = _score(rewards, words)
        assert scores.failures == {
            f"by_word_async/{kind}": 1 for kind in ("timeout", "error", "crash", "none")
        }
        assert np.isfinite(scores.total).tolist() == [word == "good" for word in words]


def test_signal_alarm_works_in_graders():
    with _open("alarmed", timeout=5.0) as rewards:
        assert _score(rewards, ["fast", "slow", "fast"]).total.tolist() == [1.0, 0.0, 1.0]


def test_workers_are_replaced_after_max_tasks():
    config = RewardConfig(function=f"{GRADERS}:process_id", batched=False)
    with make_rewards([config], PoolConfig(workers=1, max_tasks=4)) as rewards:
        first = set(_score(rewards, ["x"] * 4).total.tolist())
        second = set(_score(rewards, ["x"] * 4).total.tolist())
    assert len(first) == len(second) == 1 and first != second


def test_functions_can_be_imported_in_each_worker():
    """And workers stay off devices, in process groups of their own."""
    config = RewardConfig(function=f"{GRADERS}:where_it_runs", batched=False)
    with make_rewards([config], PoolConfig(workers=1, preload=False)) as rewards:
        scores = _score(rewards, ["abc", "exit", "ab"])
    assert scores.failures == {"where_it_runs/crash": 1} and scores.total[[0, 2]].tolist() == [
        1.0,
        1.0,
    ]


def test_ctrl_c_leaves_a_usable_pool(by_word):
    # a job started in the background begins with it ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        _score(by_word, ["hang"] * 8)
    timer.join()
    assert _score(by_word, ["abc", "ab"]).total.tolist() == [3.0, 2.0]


def test_closing_ends_every_process():
    rewards = _open("by_word")
    _score(rewards, ["daemon", "x"])
    pids = [*_processes(rewards), rewards._rooms[0].pool._fork_server._process.pid]
    rewards.close()
    rewards.close()
    assert all(_gone(pid) for pid in pids)
    with pytest.raises(ValueError, match="these rewards are closed"):
        _score(rewards, ["x"])


def test_a_killed_worker_takes_its_children_along():
    with _open("by_word", workers=1, timeout=0.5) as rewards:
        _score(rewards, ["daemon"])
        group = _processes(rewards)[0]
        _score(rewards, ["exit"])
        end = time.monotonic() + 5.0
        while time.monotonic() < end:
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                break
            time.sleep(0.02)
        with pytest.raises(ProcessLookupError):
            os.killpg(group, 0)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_nothing_outlives_the_run(number):
    code = f"""
from rlhf_jax.rewards import PoolConfig, RewardConfig, make_rewards
config = RewardConfig(function={f"{GRADERS}:by_word"!r}, batched=False)
rewards = make_rewards([config], PoolConfig(timeout=60.0))
workers = [worker.pid for worker in rewards._rooms[0].pool._workers]
print(rewards._rooms[0].pool._fork_server._process.pid, *workers, flush=True)
rewards.score(["p"] * 2, ["loop", "hang"], [[1]] * 2, {{}})
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 3
        time.sleep(0.2)
        process.send_signal(number)
    assert all(_gone(pid) for pid in pids)


def test_a_lost_fork_server_is_replaced(by_word):
    os.kill(by_word._rooms[0].pool._fork_server._process.pid, signal.SIGKILL)
    time.sleep(0.1)
    scores = _score(by_word, ["abc"] * 6)
    assert np.isin(scores.total, [3.0]).sum() >= 4, "at most the completions in work are lost"
    assert _score(by_word, ["abc"] * 6).total.tolist() == [3.0] * 6


@pytest.mark.parametrize("preload", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_module_that_kills_its_process_is_an_error_not_a_loop(tmp_path, preload):
    bad = tmp_path / "bad.py"
    bad.write_text("import os\nos._exit(7)\ndef f(): ...")
    with pytest.raises(
        RewardProcessError, match="reward processes ended before they graded anything"
    ) as raised:
        make_rewards([RewardConfig(function=f"{bad}:f")], PoolConfig(workers=1, preload=preload))
    message = str(raised.value)
    assert f"{bad}:f" in message and "reward_pool.memory_gb=8" in message and "\n" not in message
    assert ("the last ended with exit code 7" in message) == preload
    assert exit_code(raised.value) == 5
