"""Letters of choice: one, or several, however they are said."""

import pytest

from rlhf_jax.rewards.basic import exact_match_reward
from rlhf_jax.rewards.choices import chosen_in, same_choice
from rlhf_jax.rewards.math import math_reward

RIGHT = {
    "D": [
        *(
            "Option D is correct.",
            "Choice D",
            "the correct option is (D)",
            "The correct choice is D.",
            "Option D",
        ),
        *(
            "I choose option D.",
            "The answer is option D.",
            "(D) is correct",
            "D is the correct answer.",
            "(D)",
            "D.",
        ),
        *(
            "Therefore, option (D) is the correct answer.",
            "The correct answer is option D: Paris.",
            "Answer: Option D",
        ),
        *(
            r"\boxed{\text{Option D}}",
            r"\boxed{\text{Choice }D}",
            "The right option is **D**.",
            "<answer>Option D</answer>",
        ),
        *(
            r"\boxed{\textbf{(D) }42}",
            r"\boxed{\mathrm{D}}",
            "2 + 2 = 4.\nSo option D is correct.",
            "The answer is D) 42",
        ),
        *(
            "D. Paris",
            "D: 42",
            "The answer is D. Option B is wrong because it is too big.",
            "I think it's D.",
        ),
        *(
            "The answer is D, because B is wrong.",
            "The best choice is D because 5 > 3.",
            "It is D, not B.",
        ),
    ],
    "A, C": [
        *(
            "The answer is A and C.",
            r"\boxed{A, C}",
            r"\boxed{(A), (C)}",
            r"\boxed{C, A}",
            r"\boxed{AC}",
            "A; C",
        ),
        *(
            r"\boxed{A \text{ and } C}",
            "The answer is (A) and (C).",
            "The answers are A and C.",
            r"\boxed{A}, \boxed{C}",
        ),
        *(
            "Options A and C are correct.",
            "Both A and C are correct.",
            "The correct options are A and C.",
            "#### A and C",
        ),
    ],
    "AC": ["Answer: A and C", r"\boxed{A,C}", r"\boxed{AC}"],
    "(b)": ["(b)", "B", r"\boxed{(B)}", "The answer is (b)."],
}
WRONG = {
    "A": [
        *(
            "A. C.",
            "A) it is C",
            "A: 3, B: 4",
            "The answer is A. C.",
            "Answer: A) it is C",
            r"\boxed{A: 3, B: 4}",
        ),
        *(
            r"\boxed{A. C.}",
            r"\boxed{A) 3 B) 4}",
            "The answer is A and C.",
            r"\boxed{A, C}",
            r"\boxed{A}, \boxed{C}",
        ),
        *(
            "A or C",
            "Option A or option C",
            "Options A and C are correct",
            "Option A is incorrect",
            "Option A is not correct",
        ),
        *(
            "A; C",
            "A + C",
            "A B",
            "A/B",
            "(A)(B)",
            "A & B",
            "A\nB\nC",
            "<answer>A\nB</answer>",
            "A) but C is also right",
        ),
        *(
            "A is wrong, C is right",
            "not A",
            "The answer is A (or C)",
            "All of the above",
            "C",
            r"\boxed{AC}",
            "Both A and B",
        ),
    ],
    "A, C": [
        r"\boxed{A}",
        r"\boxed{A, B}",
        r"\boxed{A, B, C}",
        "A or C",
        r"\boxed{ABC}",
        "Options A, B, C and D",
    ],
    "AB": [r"\boxed{BA}", r"\boxed{A}"],
    "(b)": ["(a)", "(b) or (c)", "b and c"],
}


@pytest.mark.parametrize("reward", [math_reward, exact_match_reward])
@pytest.mark.parametrize("gold", RIGHT)
def test_right(gold, reward):
    assert [text for text in RIGHT[gold] if reward(None, [text], answer=[gold]) != [1.0]] == []


@pytest.mark.parametrize("reward", [math_reward, exact_match_reward])
@pytest.mark.parametrize("gold", WRONG)
def test_wrong(gold, reward):
    assert [text for text in WRONG[gold] if reward(None, [text], answer=[gold]) != [0.0]] == []


def test_what_is_no_letter_of_choice():
    assert (
        same_choice("A", "Paris") is None
        and same_choice("x", "x") is None
        and same_choice("AB", "AB") is None
    )
    assert same_choice("n", "N") is None
    assert chosen_in("She has 5 apples") is None and chosen_in("B", " because A is wrong") is None
    assert chosen_in("B", " C") == "B, C" and chosen_in("option " + "x " * 500 + "B") is None
