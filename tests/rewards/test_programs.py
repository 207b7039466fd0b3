"""The reward of programs by example, by hand and against brute force."""

import random

import pytest

from rlhf_jax.rewards import RewardConfig, make_rewards
from rlhf_jax.rewards.programs import programs_reward

PAIRS = [[0, 1], [1, 4], [3, 10], [6, 19]]
"""Of 3*x+1."""


def score(text, pairs=PAIRS, **options):
    (value,) = programs_reward(["p"], [text], hidden=[pairs], **options)
    return value


@pytest.mark.parametrize(
    "text",
    [
        "3*x+1",
        "1+x*3",
        "x+x+x+1",
        " 3 * (x + 1) - 2 ",
        "f(x) = 3*x+1",
        "The slope is 3.\ny = 3*x+1",
        "<answer>3*x+1</answer>",
        "#### 3 × x + 1",
        "6*x/2+1",
        [{"role": "assistant", "content": "3*x+1"}],
    ],
)
def test_right(text):
    assert score(text) == score(text, partial=True) == 1.0


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("1", 0.25),  # holds for x = 0 alone
        ("x+1", 0.25),
        ("3*x", 0.0),
        ("x*x+1", 0.5),  # x = 0 and x = 3
        ("3*x+1+x*(x-1)*(x-3)", 0.75),  # all but x = 6
        ("3x+1", 0.0),
        ("3*x+1.0", 0.0),
        ("3*y+1", 0.0),
        ("lambda x: 3*x+1", 0.0),
        ("3*x+1 3*x+1", 0.0),
        ("3*x+1+0/x", 0.75),  # nothing at x = 0
        ("0->1 1->4", 0.0),
        ("x" * 300, 0.0),
    ],
)
def test_wrong(text, share):
    assert score(text) == 0.0
    assert score(text, partial=True) == share


def test_all_polynomials_against_brute_force():
    """Right are exactly those whose six values are the wanted ones, rounding nothing."""
    draw = random.Random(1)
    inputs = [0, 1, 2, 4, 7, 9]
    for _ in range(300):
        wanted, given = ([draw.randint(0, 2) for _ in range(3)] for _ in range(2))
        a, b, c = wanted
        pairs = [[x, a * x * x + b * x + c] for x in inputs]
        p, q, r = given
        held = [p * x * x + q * x + r == y for x, y in pairs]
        text = f"{p}*x*x+{q}*x+{r}"
        assert score(text, pairs) == float(wanted == given)
        assert score(text, pairs, partial=True) == sum(held) / 6


def test_a_row_without_pairs_is_not_graded():
    assert programs_reward(["p"] * 3, ["x"] * 3, hidden=[[[1, 1]], None, []]) == [1.0, None, None]


def test_missing_column():
    with pytest.raises(
        ValueError,
        match="^reward programs needs a column 'hidden', the data has answer: rename it with data",
    ):
        programs_reward(["p"], ["x"], answer=["x"])


def test_two_rewards_of_one_function():
    configs = [
        RewardConfig(function="programs"),
        RewardConfig(
            function="programs", name="programs_partial", weight=0.5, options={"partial": True}
        ),
    ]
    with make_rewards(configs) as rewards:
        scores = rewards.score(["p"] * 2, ["3*x+1", "x*x+1"], [[1], [1]], {"hidden": [PAIRS] * 2})
    assert scores.total.tolist() == [1.5, 0.25]
    assert scores.by_name["programs_partial"].tolist() == [1.0, 0.5]
