"""A slow answer is wrong by processor time; a halted machine makes nobody's answer wrong."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from rlhf_jax.rewards import PoolConfig, RewardConfig, make_rewards
from rlhf_jax.rewards.calls import GradingBatch, grade_each
from rlhf_jax.rewards.loading import load_reward
from tests.rewards.mixed_batch import GOLD_OF_HOSTILE, HONEST, HOSTILE

GRADERS = pathlib.Path(__file__).with_name("graders.py")
BUSY = "(a+)+b"
"""A pattern that takes time exponential in the number of letters a: 25 need two seconds."""


def _format(limit, **pool):
    return make_rewards(
        [RewardConfig(function="format", options={"pattern": BUSY, "timeout": limit})],
        PoolConfig(**pool),
    )


def _score(rewards, words, **columns):
    return rewards.score(["p"] * len(words), words, [[1]] * len(words), columns)


@contextlib.contextmanager
def _busy_machine(processes):
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def test_an_answer_that_needs_too_much_processor_time_is_wrong():
    with _format(0.2) as rewards:
        scores = _score(rewards, ["aab", "a" * 40, "b", "aab", "a" * 41])
    assert scores.total.tolist() == [1.0, 0.0, 0.0, 1.0, 0.0]
    assert scores.failures == {"format/slow": 2} and not scores.spoiled.any()
    assert scores.messages == {"format/slow": "needs more than 0.2 s of processor time"}


def test_a_busy_machine_makes_no_answer_wrong():
    """Six more processes on the cores: by the clock, the 21s exceed what one of 40 reaches alone.

    A fit is told from a mistake by the letter at the end: those of 21 letters are right, and need
    the time to be found so.
    """
    pattern = {"pattern": "(a+)+[^a]|a{21}c?", "timeout": 0.5}
    with (
        _busy_machine(6),
        make_rewards([RewardConfig(function="format", options=pattern)], PoolConfig()) as rewards,
    ):
        scores = _score(rewards, ["a" * 21] * 6 + ["a" * 40] + ["aab"] * 6)
    assert scores.total.tolist() == [1.0] * 6 + [0.0] + [1.0] * 6 and scores.failures == {
        "format/slow": 1
    }


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("deep"), OverflowError("large")])
def test_an_answer_that_needs_too_much_of_anything_is_wrong(error, monkeypatch):
    def refuse(**_):
        raise error

    reward = load_reward(RewardConfig(function="math"))
    sent = []
    batch = GradingBatch(["p"], ["a"], [[1]], {"answer": ["1"]})
    for limit, kind in ((2.0, "slow"), (None, "error")):
        changed = reward.__class__(**{**vars(reward), "function": refuse, "cpu_seconds": limit})
        grade_each(changed, batch, sent.append, 1.0)
        assert list(sent.pop()) == ["row", kind]


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_worker_that_stands_still_or_is_lost_costs_a_built_in_nothing(number):
    words = ["a" * 18, "aab"] * 12
    with _format(0.15, timeout=1.5, workers=2) as rewards:
        _score(rewards, ["aab"])
        result = {}
        thread = threading.Thread(target=lambda: result.update(scores=_score(rewards, words)))
        before = [worker.pid for worker in rewards._rooms[0].pool._workers]
        thread.start()
        time.sleep(0.1)
        for pid in before:
            os.kill(pid, number)
        thread.join()
    scores = result["scores"]
    assert scores.total.tolist() == [0.0, 1.0] * 12 and scores.failures == {}


def test_a_process_lost_once_is_tried_again(tmp_path):
    (tmp_path / "once.py").write_text(
        "import os, pathlib\n"
        "def once(completions, marks, **kwargs):\n"
        "    mark = pathlib.Path(marks) / completions[0]\n"
        "    if not mark.exists() or completions[0] == 'always':\n"
        "        mark.touch()\n"
        "        os._exit(3)\n"
        "    return [1.0]\n"
    )
    config = RewardConfig(
        function=f"{tmp_path / 'once.py'}:once", options={"marks": str(tmp_path)}, batched=False
    )
    with make_rewards([config], PoolConfig(workers=2)) as rewards:
        scores = _score(rewards, ["one", "always", "two", "three"])
    np.testing.assert_array_equal(scores.total, [1.0, np.nan, 1.0, 1.0])
    assert scores.failures == {"once/crash": 1}


@pytest.mark.slow
def test_hostile_answers_among_honest_ones():
    """Every honest answer is right and every hostile one wrong: none is left out of its group."""
    assert len(HOSTILE) == len(HONEST) == 54
    words = [
        text
        for hostile, (honest, _) in zip(HOSTILE, HONEST, strict=True)
        for text in (hostile, honest)
    ]
    golds = [
        gold
        for _, honest in zip(HOSTILE, HONEST, strict=True)
        for gold in (GOLD_OF_HOSTILE, honest)
    ]
    with make_rewards([RewardConfig(function="math")], PoolConfig(workers=2)) as rewards:
        scores = _score(rewards, words, answer=golds)
    wrong = [i // 2 for i, value in enumerate(scores.total) if value != i % 2]
    assert not wrong, [
        (HOSTILE[i][:60], HONEST[i], scores.total[2 * i], scores.total[2 * i + 1]) for i in wrong
    ]
    assert set(scores.failures) <= {"math/slow"}
