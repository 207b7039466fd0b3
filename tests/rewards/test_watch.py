"""Batches that were graded as a whole: what ends a run, what is warned of, and how often."""

import logging

import numpy as np
import pytest

from rlhf_jax.rewards import PoolConfig, RewardConfig
from rlhf_jax.rewards.scoring import RewardScores
from rlhf_jax.rewards.watch import RewardWatch

NAN = np.nan


def _scores(by_name, failures=(), messages=()):
    by_name = {name: np.array(values, np.float32) for name, values in by_name.items()}
    failures = dict(failures)
    total = np.sum(list(by_name.values()), axis=0)
    messages = {name: "KeyError: 'anwser'" for name in failures} | dict(messages)
    return RewardScores(total, by_name, failures, np.isnan(total), messages, {}, {})


def _note(watch, scores, texts=None, **columns):
    return watch.note(
        scores.total, scores, texts or ["The answer is 7"] * len(scores.total), columns
    )


def _judge(**fields):
    return RewardConfig(function="my.py:judge", **fields)


def _failed(count, errors):
    return _scores(
        {"judge": [NAN] * errors + [1.0] * (count - errors)},
        {"judge/error": errors} if errors else {},
    )


def test_the_first_batch_in_which_every_completion_raised_ends_a_run():
    watch = RewardWatch([_judge()], PoolConfig())
    assert _note(watch, _failed(8, 7)) is None
    assert _note(watch, _failed(8, 8)) == (
        "reward 'judge' (my.py:judge) raised on every completion of the batch: KeyError: 'anwser'; "
        "mend it and give the same "
        "command again (reward_pool.max_failed=1; more for a service that comes back)"
    )


def test_more_batches_may_fail_when_asked_for_and_only_in_a_row():
    watch = RewardWatch([_judge()], PoolConfig(max_failed=3))
    said = [_note(watch, _failed(8, errors)) for errors in (8, 8, 7, 8, 8, 8)]
    assert (
        said[:5] == [None] * 5
        and "raised on every completion of 3 batches in a row: KeyError" in said[5]
    )


def test_a_reward_that_is_only_logged_ends_nothing():
    watch = RewardWatch([_judge(weight=0.0), RewardConfig(function="length")], PoolConfig())
    scores = _scores({"judge": [NAN] * 4, "length": [1.0] * 4}, {"judge/error": 4})._replace(
        total=np.ones(4, np.float32)
    )
    assert _note(watch, scores) is None


@pytest.mark.parametrize("kind", ["none", "timeout", "crash"])
def test_many_batches_without_one_grade_end_a_run(kind):
    watch = RewardWatch([_judge()], PoolConfig(max_ungraded=3))
    nothing, something = _scores({"judge": [NAN] * 4}, {f"judge/{kind}": 4}), _failed(4, 0)
    said = [
        _note(watch, scores) for scores in (nothing, nothing, something, nothing, nothing, nothing)
    ]
    assert said[:5] == [None] * 5
    assert (
        f"no completion of 3 batches in a row got a grade (the last: 4 completions, judge/{kind} 4)"
        in said[5]
    )
    assert "reward_pool.max_ungraded=3" in said[5]


def test_reward_models_alone():
    watch = RewardWatch([RewardConfig(function="model")], PoolConfig(max_ungraded=2))
    assert watch.note(np.full(4, NAN), None, [""] * 4, {}) is None
    assert watch.note(np.ones(4), None, [""] * 4, {}) is None
    assert watch.note(np.full(4, NAN), None, [""] * 4, {}) is None
    assert "no reward is a number" in watch.note(np.full(4, NAN), None, [""] * 4, {})


@pytest.mark.parametrize("kind", ["slow", "timeout", "error", "crash"])
def test_a_warning_from_five_per_cent_on(kind, caplog):
    watch = RewardWatch([_judge()], PoolConfig())
    for count in (0, 4):
        assert (
            _note(watch, _scores({"judge": [1.0] * 100}, {f"judge/{kind}": count} if count else {}))
            is None
        )
    assert not caplog.records, "4 of 100"
    for _ in range(100):
        _note(watch, _scores({"judge": [1.0] * 100}, {f"judge/{kind}": 5}))
    assert [record.getMessage() for record in caplog.records] == [
        f"reward judge: 5 % of a batch of 100 were too slow (0) or failed (not graded): 5 {kind}; "
        "the first KeyError: 'anwser'"
    ]
    _note(watch, _scores({"judge": [1.0] * 100}, {f"judge/{kind}": 5}))
    assert len(caplog.records) == 2, "again after a hundred batches"


def test_none_is_no_failure(caplog):
    watch = RewardWatch([_judge()], PoolConfig())
    for _ in range(5):
        assert _note(watch, _scores({"judge": [NAN] * 50 + [1.0] * 50}, {"judge/none": 50})) is None
    assert not caplog.records


def test_a_verifiable_reward_of_nothing_but_zeros_is_warned_of_once(caplog):
    watch = RewardWatch([RewardConfig(function="exact_match")], PoolConfig())
    zero, one = _scores({"exact_match": [0.0] * 4}), _scores({"exact_match": [0.0, NAN, 1.0, 0.0]})
    for scores in [zero] * 9 + [one] + [zero] * 9:
        _note(watch, scores, answer=["12 apples"] * 4)
    assert not caplog.records
    for _ in range(20):
        _note(watch, zero, answer=["12 apples"] * 4)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    for told in (
        "exact_match was 0 for every",
        "10 batches",
        "answer: '12 apples'",
        "'The answer is 7'",
        "read as the answer '7'",
    ):
        assert told in record.getMessage()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("so 6. The answer is 7", "never closes it, read as no answer"),
        (
            "so 6.</think>The answer is 8",
            "completion ending in 'so 6.</think>The answer is 8', read as the answer '8'",
        ),
    ],
)
def test_the_warning_of_zeros_reads_answers_as_the_rewards_do(text, told, caplog):
    """Whose prompt opened <think>: the answer in a block that is not closed is none."""
    watch, zero = (
        RewardWatch([RewardConfig(function="exact_match")], PoolConfig()),
        _scores({"exact_match": [0.0] * 4}),
    )
    for _ in range(10):
        _note(watch, zero, [text] * 4, answer=["9"] * 4, prompt_opens_think=[True] * 4)
    [record] = caplog.records
    assert told in record.getMessage() and "prompt_opens_think: True" in record.getMessage()


def test_a_penalty_may_be_zero_for_ever(caplog):
    configs = [RewardConfig(function="repetition"), _judge()]
    watch = RewardWatch(configs, PoolConfig())
    for _ in range(30):
        _note(watch, _scores({"repetition": [0.0] * 4, "judge": [0.0] * 4}))
    assert not caplog.records
