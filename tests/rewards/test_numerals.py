"""Numbers in words."""

import pytest

from rlhf_jax.rewards.basic import exact_match_reward
from rlhf_jax.rewards.math import math_reward
from rlhf_jax.rewards.numerals import in_digits


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("three", "3"),
        ("Zero", "0"),
        ("twenty-one apples", "21 apples"),
        ("twenty one", "21"),
        ("one hundred and five", "105"),
        ("a hundred", "1 hundred"),
        ("two thousand three hundred forty", "2340"),
        ("twelve hundred", "1200"),
        ("five million two", "5000002"),
        ("negative five", "-5"),
        ("minus 5", "-5"),
        ("Negative 0.5", "-0.5"),
        ("nineteen eighty", "nineteen eighty"),
        ("three five", "three five"),
        ("hundred", "hundred"),
        ("thousand two", "thousand two"),
        ("apples", "apples"),
        ("minus x", "minus x"),
    ],
)
def test_in_digits(text, digits):
    assert in_digits(text) == digits


SAME = [
    ("3", "three"),
    ("three", "3"),
    ("three", "Three"),
    ("21", "twenty-one"),
    (r"\text{twenty-one}", "21"),
    ("twelve apples", "12"),
    (r"\text{negative } 5", "-5"),
    ("minus 5", "-5"),
    ("negative five", "-5"),
    ("two million", "2000000"),
    ("two dozen", "24"),
    (r"\text{a hundred}", "100"),
]
DIFFERENT = [
    ("-3", "three"),
    ("30", "three"),
    ("20", "twenty-one"),
    ("1", "twenty-one"),
    (r"\text{negative } 5", "5"),
    ("minus five", "5"),
    ("three halves", "3"),
    ("three squared", "3"),
    ("five point five", "5"),
    ("five hundred", "5"),
    ("seven eighths", "7"),
    ("one half", "1"),
    ("7 minus 5", "-5"),
]


@pytest.mark.parametrize("reward", [math_reward, exact_match_reward])
def test_graded(reward):
    for pairs, wanted in ((SAME, 1.0), (DIFFERENT, 0.0)):
        for form in (r"\boxed{@}", "The answer is @.", "#### @"):
            texts = [form.replace("@", answer) for answer, _ in pairs]
            scores = reward(None, texts, answer=[gold for _, gold in pairs])
            assert [
                text for text, score in zip(texts, scores, strict=True) if score != wanted
            ] == []
