"""Asides behind an answer: those that change it, and those that say where it comes from."""

import pytest

from rlhf_jax.rewards.asides import changes_before
from rlhf_jax.rewards.basic import exact_match_reward
from rlhf_jax.rewards.math import math_reward

CHANGES = """
in millions; in thousands; million; base 8; base sixteen; in hexadecimal; in base 9; mod 7; modulo
seven; negative; times ten; divided by 2; multiplied by three; minus 2; plus 1; squared; doubled;
halved; factorial; thousand dollars; per million; in hundreds of dollars; which is wrong; but
mistaken
""".replace("\n", " ")
RESTATES = """
half of 10; twice as many as before; one third of fifteen; the square root of 25; rounded to the
nearest integer; rounded up; in dollars; in total; apples; the number of times he ran; as required;
as shown above; since it is odd; because 2 + 3 = 5; less than 7; which is odd; not 6; by symmetry;
namely the last one; up to sign; a prime
""".replace("\n", " ")


def _phrases(text):
    return [phrase.strip() for phrase in text.split(";")]


def _written(phrase):
    marks = ["The answer is {}.", "Answer: {}", "#### {}", "<answer>{}</answer>"]
    return [mark.format(f"5{form.format(phrase)}") for mark in marks for form in (" ({})", ", {}")]


@pytest.mark.parametrize("reward", [math_reward, exact_match_reward])
@pytest.mark.parametrize("phrase", _phrases(CHANGES))
def test_what_changes_the_value(phrase, reward):
    assert [text for text in _written(phrase) if reward(None, [text], answer=["5"]) != [0.0]] == []


@pytest.mark.parametrize("reward", [math_reward, exact_match_reward])
@pytest.mark.parametrize("phrase", _phrases(RESTATES))
def test_what_says_where_the_value_comes_from(phrase, reward):
    assert [text for text in _written(phrase) if reward(None, [text], answer=["5"]) != [1.0]] == []


def test_words_alone():
    assert (
        changes_before(["Doubled"])
        and changes_before(["half"])
        and not changes_before(["half", "of"])
    )
    assert (
        not changes_before([])
        and not changes_before(["percent"])
        and changes_before(["apples", "doubled"])
    )


@pytest.mark.parametrize(
    ("text", "wanted"), [("eighteen (18)", 1.0), ("eighteen (19)", 0.0), ("18 (eighteen)", 1.0)]
)
def test_a_number_in_words_and_in_digits(text, wanted):
    assert math_reward(None, [f"The answer is {text}."], answer=["18"]) == [wanted]
