"""No spelling of another value earns a reward, and honest spellings of the right one do."""

import random

import pytest

from rlhf_jax.rewards.basic import exact_match_reward
from rlhf_jax.rewards.math import math_reward
from tests.rewards.spellings import (
    AROUND_BOX,
    CHANGED,
    CHANGED_UNLESS_SMALL,
    LETTERS,
    MARKS,
    NOT_CHANGED,
    SPELLINGS,
    TAKEN_BACK,
    UNITS,
    spelled_number,
)

GOLDS = ["0", "1", "104", "999", "18", "70000", "-12", "5"]


def _grade(completions, gold, reward=math_reward):
    return reward(None, completions, answer=[gold] * len(completions))


def _failed(texts, scores, wanted):
    return [text for text, score in zip(texts, scores, strict=True) if score != wanted]


@pytest.mark.parametrize("gold", GOLDS)
@pytest.mark.parametrize("reward", [math_reward, exact_match_reward])
def test_honest_spellings(gold, reward):
    number = int(gold)
    texts = [
        form.replace("@", written)
        for form in SPELLINGS
        for written in {gold, f"{number:,}", gold + ".00"}
    ]
    assert _failed(texts, _grade(texts, gold, reward), 1.0) == []
    if abs(number) >= 1000:
        assert _failed(texts, _grade(texts, f"{number:,}", reward), 1.0) == []


@pytest.mark.parametrize("gold", ["104", "5", "999"])
@pytest.mark.parametrize("mark", MARKS)
def test_what_changes_the_value_is_never_dropped(gold, mark):
    texts = [mark.replace("@", form.replace("@", gold)) for form in CHANGED + CHANGED_UNLESS_SMALL]
    assert _failed(texts, _grade(texts, gold), 0.0) == []
    assert _failed(texts, _grade(texts, gold, exact_match_reward), 0.0) == []


@pytest.mark.parametrize("number", [2, 3, 5, 7, 10])
def test_small_numbers_and_the_words_of_the_reports(number):
    gold = str(number)
    words = [
        "million",
        "hundred",
        "dozen",
        "squared",
        "plus four",
        "minus",
        "over four",
        "halves",
        "third",
        "modulo three",
    ]
    texts = [rf"\boxed{{{gold} {word}}}" for word in words]
    assert _failed(texts, _grade(texts, gold), 0.0) == []
    assert _failed(texts, _grade(texts, gold, exact_match_reward), 0.0) == []


@pytest.mark.parametrize("gold", ["5", "18", "999"])
@pytest.mark.parametrize("reward", [math_reward, exact_match_reward])
def test_what_stands_around_an_answer(gold, reward):
    wrong = [form.replace("@", gold) for form in AROUND_BOX + TAKEN_BACK]
    assert _failed(wrong, _grade(wrong, gold, reward), 0.0) == []
    right = [form.replace("@", gold) for form in NOT_CHANGED]
    assert _failed(right, _grade(right, gold, reward), 1.0) == []


def _values_differ(rng, count):
    """(completion, gold) whose values differ."""
    cases = []
    while len(cases) < count:
        kind = rng.randrange(10)
        mark = rng.choice(MARKS)
        if kind < 6:
            (text, value), (gold, wanted) = spelled_number(rng), spelled_number(rng)
            if value == wanted:
                continue
        elif kind == 6:
            number = rng.randrange(3, 1000)
            text, gold = (
                rng.choice(CHANGED + CHANGED_UNLESS_SMALL).replace("@", str(number)),
                str(number),
            )
        elif kind < 9:
            one, other = rng.choice(list(UNITS)), rng.choice(list(UNITS))
            n, m = rng.randrange(1, 60), rng.randrange(1, 60)
            m = n if rng.random() < 0.5 else m
            if (UNITS[one][0], UNITS[one][1] * n) == (UNITS[other][0], UNITS[other][1] * m):
                continue
            text, gold = f"{n} {one}", f"{m} {other}"
        else:
            text, gold = rng.sample(LETTERS, 2)
        cases.append((mark.replace("@", text), gold))
    return cases


def _earning(cases):
    return [(text, gold) for text, gold in cases if (_grade([text], gold)[0] or 0.0) != 0.0]


def test_no_spelling_of_another_value_earns_a_reward():
    assert _earning(_values_differ(random.Random(0), 300)) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_no_spelling_of_another_value_earns_a_reward_ten_thousand_times(seed):
    assert _earning(_values_differ(random.Random(seed + 1), 1000)) == []


def _values_agree(rng, count):
    """(completion, gold) of numbers that are equal and written in two ways."""
    by_value, cases = {}, []
    while len(cases) < count:
        text, value = spelled_number(rng)
        others = by_value.setdefault(value, set())
        cases += [
            (rng.choice(MARKS).replace("@", text), other) for other in sorted(others - {text})[:2]
        ]
        others.add(text)
    return cases[:count]


def test_spellings_of_one_value_agree():
    cases = _values_agree(random.Random(0), 150)
    assert [case for case in cases if _grade([case[0]], case[1])[0] != 1.0] == []
