"""Where the answer is in a text, and which expression of a sentence it is."""

import pytest

from rlhf_jax.rewards.extraction import (
    after_reasoning,
    final_answer,
    marked_answer,
    unmarked_answer,
)
from rlhf_jax.rewards.math import math_reward


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 104, since 2 + 2 = 4.", "104"),
        ("The answer is 104. This is because 2 + 2 = 4.", "104"),
        ("The answer is 5 because 2 + 2 = 4.", "5"),
        ("Final Answer: The final answer is 104. I hope it is correct.", "104"),
        ("Final Answer: The final answer is 7.78.", "7.78"),
        ("Answer: Natalia sold 104 clips in total.", "104"),
        ("Answer: The largest $n$ is $104$.", "$104$"),
        ("Answer: The largest $n$ is 104.", "104"),
        ("<answer>She has 104 apples.</answer>", "104"),
        ("<answer>She ran 5 km.</answer>", "5 km"),
        ("<answer>She has 2 million apples.</answer>", "2 million"),
        ("**Answer:** 104", "104"),
        ("**The answer is 104**", "104"),
        ("**Final Answer:**\n104", "104"),
        ("The answer is (B).", "(B)"),
        ("The correct answer is B because A is not", "B"),
        ("Answer: (B) 12", "(B) 12"),
        ("The answer is Paris.", "Paris"),
        ("The answer is yes because 4 is even.", "yes"),
        ("#### 1\n" * 3 + "#### 2", "2"),
        ("The answer is [0, 1).", "[0, 1)"),
        ("The answer is 10!", "10!"),
        ("The answer is 5, 6 and 7.", "5, 6 and 7"),
        ("The answer is $x=5$ if $n=6$.", "$x=5$"),
        ("The answer to the question is 104.", "104"),
        (
            r"\boxed{104} is my first guess. Final Answer: The final answer is 105. I hope it is "
            r"correct.",
            "105",
        ),
        (r"The answer is not 5. So \boxed{6}", "6"),
        (r"$x = -\boxed{5}$", "-5"),
        (r"\boxed{2} million", "2 million"),
        (r"$\boxed{28}$ percent", "28 percent"),
        (r"\boxed{1} and \boxed{-2}", "1, -2"),
        (r"$\boxed{(2, 2)} \quad \text{and} \quad \boxed{(6, 2)}$", "(2, 2), (6, 2)"),
        (r"\boxed{1},\boxed{2},\boxed{3}", "1, 2, 3"),
        (r"\boxed{5} or \boxed{6}", "5, 6"),
        (r"\boxed{5}. No, wait: \boxed{6}", "6"),
        (r"$x = \boxed{2}$ and $y = \boxed{3}$, so the answer is $\boxed{5}$", "5"),
        (r"\boxed{5}, \boxed{5}", "5"),
        (r"So \boxed 42.", "42"),
        (r"$\boxed 5$", "5"),
        (r"\boxed x", "x"),
        (r"\boxed\frac{1}{2}", r"\frac{1}{2}"),
        (r"\boxed{42} is wrong, the answer is 41", "41"),
        (r"\boxed{42} is wrong, it should be \boxed{41}", "41"),
        (r"\boxed{42} was my first guess, but it isn't correct. \boxed{41}", "41"),
        (r"Not \boxed{42} but \boxed{41}", "41"),
        (r"\boxed{42} is the right answer.", "42"),
        (r"The answer is \boxed{42}, not 41.", "42"),
        (r"\boxed{42} is the least number such that n is not 0", "42"),
        ("The wrong answer is 42. The answer is 41", "41"),
    ],
)
def test_marked(text, answer):
    assert marked_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "The answer is not 5.",
        "The answer is between 5 and 6.",
        "The answer is either 5 or it is 6.",
        "The answer is half of 5.",
        "The answer is at least 5.",
        "The answer is no more than 5.",
        "The answer is 5 or more.",
        "The answer is 5 squared.",
        "The answer is 5 and a half.",
        "The answer is 5 out of 6.",
        "The answer is 5 apples and 3 pears.",
        "The answer is the square root of 5.",
        "The answer is 5 divided by two.",
        "It's 5 or 6",
        "so it is 5 and not 6",
        r"\boxed{5} is wrong",
        r"\boxed{5} is incorrect.",
        r"\boxed{5} is not the answer",
        r"\boxed{5} can't be right.",
        r"\boxed{5}, which is wrong.",
        r"The answer is not \boxed{5}",
        r"It isn't \boxed{5}.",
        "Wrong answer: 5",
        "<answer>It is not 5</answer>",
        "<think> maybe \\boxed{5}, let me check",
        "<think>a</think> b <think> the answer is 5",
        "",
    ],
)
def test_no_single_answer(text):
    assert math_reward(None, [text], answer=["5"]) == [0.0]
    assert math_reward(None, [text], answer=["6"]) == [0.0]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The total is 18 dollars.", "18 dollars"),
        ("It is $7.78 for the fudge.", "$7.78"),
        ("12 - 5 = 7\n7 - 3 = 4", "7 - 3 = 4"),
        ("(3 + 4) * 2", "(3 + 4) * 2"),
        ("There are 12 sequences. I hope it is correct.", "12"),
        ("not it's not 10 it's 1,000.99m²", "1,000.99m²"),
        ("words only\nin lines", None),
    ],
)
def test_unmarked(text, answer):
    assert unmarked_answer(text) == answer


def test_reasoning_that_never_ends_has_no_answer():
    assert after_reasoning("<think>a</think>b") == "b" and after_reasoning("b") == "b"
    assert after_reasoning("a</think>b", opened=True) == "b"
    assert after_reasoning("b", opened=True) is None and after_reasoning("<think>b") is None
    cut = [r"maybe \boxed{7}, let me check", r"so 7.</think> \boxed{7}"]
    assert math_reward(["q<think>\n"] * 2, cut, answer=["7"] * 2) == [0.0, 1.0]
    assert math_reward(["q"] * 2, cut, answer=["7"] * 2) == [1.0, 1.0]
    assert math_reward(None, cut, answer=["7"] * 2, prompt_opens_think=[True, True]) == [0.0, 1.0]
    assert math_reward(None, cut, answer=["7"] * 2, reasoning=True) == [0.0, 1.0]
    assert math_reward(["q<think>"] * 2, cut, answer=["7"] * 2, reasoning=False) == [1.0, 1.0]


def test_strict_takes_marked_answers_only():
    assert final_answer("so 7", strict=True) is None and final_answer("so 7") == "7"
