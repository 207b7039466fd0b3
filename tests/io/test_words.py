"""Metrics in plain words, and several steps as one row."""

import math

import pytest

from rlhf_jax.io.averages import averaged
from rlhf_jax.io.words import OFFLINE, ONLINE, change, held_out_line, line_of, number


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (-1e-8, "value", "0.000"),
        (-0.0, "value", "0.000"),
        (-0.0, "small", "0"),
        (-0.0004, "share", "0%"),
        (-0.2, "count", "0"),
        (-0.0123, "value", "-0.012"),
        (0.384, "share", "38%"),
        (6192.4, "count", "6,192"),
        (0.01234, "small", "0.0123"),
        (math.nan, "value", "nan"),
    ],
)
def test_numbers(value, form, text):
    assert number(value, form) == text


def test_a_change_has_a_sign_or_is_not_there():
    assert change(0.45, 0.42, "value") == "+0.030"
    assert change(0.42, 0.45, "value") == "-0.030"
    assert change(0.42, 0.4201, "value") == ""
    assert change(0.5, 0.2, "share") == "+30%"


STEP = {
    "loss/total": -1e-8,
    "rewards/mean": 0.412,
    "data/accuracy": 0.38,
    "rewards/zero_std_groups": 0.55,
    "length/mean": 128.4,
    "kl/ref": 0.0101,
    "policy/entropy": 0.9,
    "tokens_per_second": 6192.0,
}


def test_an_online_step_shows_what_is_learnt_and_no_loss():
    assert line_of(STEP, ONLINE, before={"rewards/mean": 0.382}) == (
        "reward 0.412 (+0.030) · right 38% · equal groups 55% · length 128 · kl 0.0101 · "
        "entropy 0.9 · tok/s 6,192"
    )


def test_a_mean_over_kept_groups_is_called_so():
    assert line_of(STEP | {"data/sampling_waste": 0.5}, ONLINE).startswith(
        "reward of kept groups 0.412 · right 38% · "
    )


def test_an_offline_step_shows_its_loss():
    pairs = {"loss/total": 0.61, "rewards/accuracy": 0.75, "rewards/margin": 0.2, "grad_norm": 2.0}
    assert line_of(pairs, OFFLINE, before={"loss/total": 0.69}) == (
        "loss 0.610 (-0.080) · pairs right 75% · margin 0.200 · grad 2"
    )


def test_what_nobody_knows_shows_its_first_three():
    assert line_of({"a": 1.0, "b": 2.5, "c": 3, "d": 4}, ONLINE) == "a 1 · b 2.5 · c 3"


def test_an_evaluation_stands_beside_the_first_one():
    first = {"accuracy/mean@4": 0.29, "accuracy/greedy": 0.36, "length/greedy": 5.0}
    now = {"accuracy/mean@4": 0.41, "accuracy/greedy": 0.38, "length/greedy": 5.0}
    assert held_out_line(first) == "right sampled 29% · right greedy 36% · length 5"
    assert held_out_line(now, first) == (
        "right sampled 29% -> 41% · right greedy 36% -> 38% · length 5"
    )


def test_a_reward_that_is_the_share_of_right_answers_is_said_once():
    same = {"accuracy/greedy": 0.36, "rewards/greedy": 0.36}
    assert held_out_line(same) == "right greedy 36%"
    assert held_out_line(same | {"rewards/greedy": 0.4}) == "right greedy 36% · reward greedy 0.400"


def test_a_row_of_several_steps():
    rows = [
        {"loss/total": 1.0, "lr": 0.1, "update/skipped_total": 0, "policy/ratio_max": 3.0},
        {"loss/total": math.nan, "lr": 0.2, "update/skipped_total": 1, "policy/ratio_max": 2.0},
        {"loss/total": 2.0, "lr": 0.3, "update/skipped_total": 1, "rewards/mean": 0.5},
    ]
    assert averaged(rows) == {
        "loss/total": 1.5,
        "lr": 0.3,
        "update/skipped_total": 1,
        "policy/ratio_max": 3.0,
        "rewards/mean": 0.5,
    }
    assert averaged(rows[:1]) == rows[0]
    assert math.isnan(averaged([{"loss/total": math.nan}] * 2)["loss/total"])
