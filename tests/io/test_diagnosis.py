"""What keeps a run from learning, read off rows of metrics."""

import math
import pathlib
import re

import numpy as np
import pytest

from rlhf_jax.io.diagnosis import NAMES, PAGE, diagnose

REPO = pathlib.Path(__file__).parents[2]
HEALTHY = {
    "rewards/mean": 0.5,
    "rewards/ungraded": 0.0,
    "rewards/zero_std_groups": 0.3,
    "length/truncated": 0.1,
    "policy/entropy": 0.8,
    "kl/ref": 0.05,
    "lr": 1e-6,
    "update/skipped": 0.0,
    "data/accuracy": 0.5,
    "data/sampling_waste": 0.0,
    "data/groups_generated": 10.0,
    "data/groups_all_right": 1.0,
    "data/groups_all_wrong": 2.0,
}


def rows(count=20, **changed):
    names = {name.replace("__", "/"): value for name, value in changed.items()}
    return [HEALTHY | names for _ in range(count)]


def test_the_scores_of_a_reward_model_need_not_rise():
    scores = np.random.default_rng(0).normal(-1.0, 0.1, 120)
    ranked = [{"rewards/mean": x, "rewards/accuracy": 0.7, "lr": 1e-4} for x in scores]
    assert diagnose(ranked) == []
    sampled = [row | {"data/groups_generated": 8.0} for row in ranked]
    assert [found.name for found in diagnose(sampled)] == ["flat-reward"]


def test_a_healthy_run_hears_nothing():
    assert diagnose(rows()) == [] and diagnose([]) == [] and diagnose(rows(), moved=1.0) == []


TABLE = [
    ("learning-rate-0", {"lr": 0.0}, "learning rate was 0 in the last 20 steps"),
    ("skipped-updates", {"update__skipped": 0.4}, "40% of the last 20 steps"),
    ("ungraded", {"rewards__ungraded": 0.08}, "8.0% of the completions of the last 20 steps"),
    ("cut-off", {"length__truncated": 0.71}, "71% of the completions"),
    ("equal-groups", {"rewards__zero_std_groups": 0.62}, "62% of the groups had equal rewards"),
    ("equal-groups", {"data__sampling_waste": 0.9}, "90% of the groups generated were dropped"),
    ("entropy-collapsed", {"policy__entropy": 0.01}, "entropy is 0.010 nats per token"),
]


@pytest.mark.parametrize(("name", "changed", "text"), TABLE)
def test_each_kind(name, changed, text):
    (found,) = diagnose(rows(**changed))
    assert found.name == name and text in found.text
    assert str(found).endswith(f"({PAGE}#{name})") and "\n" not in str(found)
    assert ": " in found.text, "the cure comes behind a colon"
    # too few rows say nothing
    assert diagnose(rows(4, **changed)) == []


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("skipped-updates", {"update__skipped": 0.2}),
        ("ungraded", {"rewards__ungraded": 0.05}),
        ("cut-off", {"length__truncated": 0.5}),
        ("equal-groups", {"rewards__zero_std_groups": 0.6}),
        # dynamic sampling is there to drop groups
        ("equal-groups", {"data__sampling_waste": 0.7}),
        ("entropy-collapsed", {"policy__entropy": 0.05}),
        # a solved task is answered alike
        ("entropy-collapsed", {"policy__entropy": 0.01, "data__accuracy": 0.95}),
        ("equal-groups", {"rewards__zero_std_groups": 0.9, "data__accuracy": 0.95}),
    ],
)
def test_at_its_limit_nothing_is_said(name, changed):
    assert diagnose(rows(**changed)) == []


def test_equal_groups_name_the_cure_that_fits():
    equal = {"rewards__zero_std_groups": 0.8}
    (found,) = diagnose(rows(**equal, data__groups_all_right=7.0, data__groups_all_wrong=1.0))
    assert "(70% all right, 10% all wrong)" in found.text and "harder prompts" in found.text
    (found,) = diagnose(rows(**equal, data__groups_all_right=1.0, data__groups_all_wrong=7.0))
    assert "easier prompts" in found.text


def test_the_reward_that_fails_most_is_named():
    failed = {"rewards/failed/judge/timeout": 7.0, "rewards/failed/math/error": 1.0}
    given = [row | failed for row in rows(rewards__ungraded=0.1)]
    assert "most of them by judge: timeout" in diagnose(given)[0].text


def test_kl_that_is_large_and_grows():
    def named(values):
        given = [row | {"kl/ref": value} for row, value in zip(rows(20), values, strict=True)]
        return [found.name for found in diagnose(given)]

    assert named([0.4] * 10 + [0.8] * 10) == ["kl-runs-away"]
    assert named([0.8] * 20) == []  # large, and held
    assert named([0.01] * 10 + [0.1] * 10) == []  # grows, and small


def test_parameters_that_rest_are_told_at_once_and_first():
    (found,) = diagnose([], moved=0.02)
    assert found.name == "vanishing-updates" and "only 2.0% of the 16-bit weights" in found.text
    both = diagnose(rows(length__truncated=0.9), moved=0.4)
    assert [found.name for found in both] == ["vanishing-updates", "cut-off"]
    assert diagnose(rows(), moved=0.5) == []


def noisy(count, rise, name="rewards/mean", **changed):
    noise = 0.05 * np.random.default_rng(0).standard_normal(count)
    values = 0.3 + rise * np.linspace(0, 1, count) + noise
    return [
        row | {name: float(value)}
        for row, value in zip(rows(count, **changed), values, strict=True)
    ]


def test_a_reward_that_does_not_rise():
    (found,) = diagnose(noisy(120, 0.0))
    assert found.name == "flat-reward" and "did not rise in the last 120 steps" in found.text
    assert diagnose(noisy(120, 0.2)) == []
    assert diagnose(noisy(40, 0.0)) == []  # too early to say
    assert diagnose(noisy(120, 0.0, data__accuracy=0.97)) == []  # nothing left to rise
    # what explains it is said instead
    (found,) = diagnose(noisy(120, 0.0, rewards__zero_std_groups=0.9))
    assert found.name == "equal-groups"


def test_with_dynamic_sampling_the_share_of_right_answers_must_rise():
    """The reward of kept groups, which hold right and wrong answers, stays where it is."""
    rising = noisy(120, 0.3, "data/accuracy", data__sampling_waste=0.5)
    assert diagnose(rising) == []
    assert diagnose(noisy(120, 0.0, "data/accuracy", data__sampling_waste=0.5))


def test_what_is_not_reported_or_no_number_is_not_judged():
    assert diagnose([{"loss/total": 1.0}] * 50) == []
    assert diagnose([{"rewards/mean": math.nan, "lr": 1e-6}] * 50) == []


def test_every_kind_has_its_section_in_the_documentation():
    text = (REPO / PAGE).read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\(([a-z0-9-]+)\)=\n## ", text, re.MULTILINE)) == NAMES
    assert {name for name, _, _ in TABLE} <= set(NAMES)
