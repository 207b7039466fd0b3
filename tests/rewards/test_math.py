"""Mathematical equivalence of answers."""

import logging
import time

import pytest

from rlhf_jax.rewards import PoolConfig, RewardConfig, make_rewards
from rlhf_jax.rewards.math import _REPORTED, _target, equivalent, math_reward
from tests.rewards.slow_answers import HONEST, HOSTILE

SAME = [
    ("18", "18"),
    ("1,200", "1200"),
    ("10,000,000", "1e7"),
    (r"\frac{1}{2}", "0.5"),
    (r"\frac12", "1/2"),
    (r"\dfrac{3}{4}", r"\frac{6}{8}"),
    ("18 dollars", "18"),
    ("$18", "18"),
    (r"\$18.00", "18"),
    ("50%", "50"),
    ("50%", "0.5"),
    (r"50\%", r"\frac{1}{2}"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    ("x^2+2x+1", "(x+1)^2"),
    ("(1,2)", r"\left(1, 2\right)"),
    (r"\{1,2\}", r"\{2,1\}"),
    ("[0,1)", "[0,1)"),
    (r"\pi/2", r"\frac{\pi}{2}"),
    (r"90^\circ", "90"),
    (r"5\text{ cm}^2", "5"),
    (r"x = \frac{5}{2}", "2.5"),
    (r"\text{(B)}", "B"),
    (r"2\times10^3", "2000"),
    (r"3\frac{1}{2}", "3.5"),
    ("-3 1/2", "-3.5"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    ("2^{10}", "1024"),
    ("0.333333", "1/3"),
    ("2.5 cups", r"2\frac{1}{2}"),
    ("Paris", "paris"),
]
DIFFERENT = [
    ("19", "18"),
    ("[0,1]", "[0,1)"),
    ("3.14", r"\pi"),
    ("A", "B"),
    ("5 or 6 or 7", "6"),
    ("5,6,7", "6"),
    ("0.33", "1/3"),
    ("5x", "5"),
    (r"\frac{a+b}{2}", "a+b/2"),
    (r"2\frac{1}{2}", "21/2"),
    (r"5\sqrt2", "5"),
    (r"5\pi", "5"),
    ("1e999", "1"),
    ("yes", "no"),
    ("", "5"),
    (r"\frac{", "5"),
    ("1/0", "5"),
    ("100", "1,00"),
    ("-1/2", "1/2"),
]


@pytest.mark.parametrize(("answer", "target"), SAME)
def test_same(answer, target):
    assert equivalent(answer, target)


@pytest.mark.parametrize(("answer", "target"), DIFFERENT)
def test_different(answer, target):
    assert not equivalent(answer, target)


def test_reward_reads_marks_and_gsm8k_solutions():
    completions = [
        "#### 18",
        r"so \boxed{\frac{36}{2}}",
        "it is 18",
        "17",
        "18 at first, then\n#### 17",
        "",
    ]
    solution = "She sells 9 eggs at $2.\n#### 18"
    assert math_reward(None, completions, answer=[solution] * 6) == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert math_reward(None, completions[:3], strict=True, answer=[solution] * 3) == [1.0, 1.0, 0.0]
    assert math_reward(None, ["#### 1"], answer=[None]) == [None]
    assert math_reward(None, ["#### 2"], answer=[["1", "2"]]) == [1.0]
    assert math_reward(
        None, [[{"role": "assistant", "content": r"\boxed{2}"}]], ground_truth=[r"\boxed{2}"]
    ) == [1.0]


def test_a_gold_that_cannot_be_read_leaves_its_row_out(caplog):
    _target.cache_clear()
    _REPORTED.clear()
    golds = [r"\frac{", "7^{99999999}", r"\begin{cases} x", "5"]
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert math_reward(None, [r"\boxed{5}"] * 4, answer=golds) == [None, None, None, 1.0]
    named = [
        record.getMessage()
        for record in caplog.records
        if "cannot read the right answer" in record.getMessage()
    ]
    assert len(named) == 1 and r"\\frac{" in named[0]
    assert math_reward(None, [r"\boxed{5}"], answer=[[r"\frac{", "5"]]) == [1.0]


def test_slow_answers_are_wrong_at_once():
    assert len(HOSTILE) == len(HONEST) == 54
    equivalent("x", "y + 1")  # imports sympy
    start = time.process_time()
    assert (
        math_reward(None, [rf"\boxed{{{answer}}}" for answer in HOSTILE], answer=["5"] * 54)
        == [0.0] * 54
    )
    assert time.process_time() - start < 3.0


@pytest.mark.slow
def test_a_batch_of_slow_and_honest_answers_in_the_pool():
    answers = [
        pair for both in zip(HOSTILE, HONEST, strict=True) for pair in ((both[0], "5"), both[1])
    ]
    texts, golds = [rf"\boxed{{{answer}}}" for answer, _ in answers], [gold for _, gold in answers]
    with make_rewards(
        [RewardConfig(function="math")], PoolConfig(workers=2, timeout=60.0)
    ) as rewards:
        scores = rewards.score(["q"] * 108, texts, [[1]] * 108, {"answer": golds})
    assert scores.total.tolist() == [0.0, 1.0] * 54 and scores.failures == {}
