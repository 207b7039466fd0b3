"""Completions shown in the log."""

import logging
import math

from rlhf_jax.io.samples import choose, log_samples, shortened


def test_one_right_one_wrong_then_others_at_random():
    right = [False, True, None, True, False, True]
    chosen = choose(right, count=4, seed=3)
    assert [why for why, _ in chosen] == ["right", "wrong", "random", "random"]
    assert right[chosen[0][1]] is True and right[chosen[1][1]] is False
    assert len({row for _, row in chosen}) == 4
    assert choose(right, count=4, seed=3) == chosen
    assert len({tuple(choose(right, count=1, seed=seed)) for seed in range(20)}) == 3


def test_where_nobody_says_all_are_random():
    assert [why for why, _ in choose([None, None], count=3, seed=0)] == ["random", "random"]
    assert choose([True], count=0, seed=0) == []


def test_every_reward_is_shown(caplog):
    caplog.set_level(logging.INFO, logger="rlhf_jax")
    columns = {
        "prompt": ["1+1=", "2+2="],
        "completion": ["2", "5"],
        "reward": [1.2, math.nan],
        "math": [1.0, None],
        "length": [0.2, -0.0],
    }
    log_samples(7, "training", columns, rewards=("math", "length"), right=[True, None], count=2)
    assert caplog.messages == [
        "step 7 samples (training):",
        "  right   reward 1.2 (math 1, length 0.2)  '1+1=' -> '2'",
        "  random  reward not graded (math not graded, length 0)  '2+2=' -> '5'",
    ]


def test_a_single_reward_is_its_total(caplog):
    caplog.set_level(logging.INFO, logger="rlhf_jax")
    columns = {"prompt": ["a"], "completion": ["b"], "reward": [0.0], "exact_match": [0.0]}
    log_samples(1, "x", columns, rewards=("exact_match",), right=[False], count=3)
    assert caplog.messages[1] == "  wrong   reward 0  'a' -> 'b'"


def test_long_texts_lose_their_middle():
    assert len(shortened("x" * 1000)) == 205 and shortened("a\nb") == r"'a\nb'"
