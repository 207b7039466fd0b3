"""What is counted keeps a number as it is; what scales, divides, negates or doubts it does not."""

import pytest

from rlhf_jax.rewards.basic import exact_match_reward
from rlhf_jax.rewards.math import math_reward
from rlhf_jax.rewards.nouns import are_counted, changes_value
from tests.rewards.spellings import MARKS

COUNTED = """
apples; apples left; apples remaining; red balls; red balls sold; used cars; years old; people;
children; sheep; fish; push-ups; students in total; gallons of water; miles per hour; dollars saved;
cents; birds; cards; months; paths; deaths; cloths; seeds; beds; beads; kids; squares; times; times
a week; more apples; left; in total; total; altogether; each; per day; a day; women in the room;
grandchildren; boxes of pens; TVs; menus; buses; degrees; pounds of meat; km; mph; sq ft; square
feet; feet tall; wpm; pages long
""".replace("\n", " ")
CHANGED = """
mil; bil; mln; bn; zillion; gazillions; milliard; quintillionths; elevenths; sixteenths; twentieths;
ninetieths; hundredths; thousandths; nths; halved; halves; halfs; quintupled; septuple; decupled;
tripling; doubled; doublings; increased; decreased; negated; negatives; inverted; reversed;
backwards; squared; cubed; rooted; rounded; truncated; divided; multiplied; tenfold; hundredfold;
manifold; twofold; percents; percentages; permille; basis points; factorials; inverses; reciprocals;
opposites; googols; crore; lakhs; dozens; scores; invalid; incorrect; wrong; false; erroneous; void;
null; apples doubled; apples halved; dollars negated; times two; twos; tens; trios; quartets; per
million; in hundreds; below zero; degrees below zero; multiplied apples; raised; rejected; excluded;
disproved
""".replace("\n", " ")


def _phrases(text):
    return [phrase.strip() for phrase in text.split(";")]


@pytest.mark.parametrize("phrase", _phrases(COUNTED))
def test_what_is_counted_keeps_the_value(phrase):
    texts = [mark.replace("@", f"42 {phrase}") for mark in MARKS if "$" not in mark]
    texts += [f"She has 42 {phrase}.", f"Answer: In the end there are 42 {phrase}."]
    assert [text for text in texts if math_reward(None, [text], answer=["42"]) != [1.0]] == []


@pytest.mark.parametrize("phrase", _phrases(CHANGED))
def test_what_changes_the_value_earns_nothing(phrase):
    texts = [mark.replace("@", f"42 {phrase}") for mark in MARKS]
    texts += [
        rf"\boxed{{42\text{{ {phrase}}}}}",
        rf"\boxed{{42}} {phrase}" if phrase == "squared" else f"It is 42 {phrase}.",
    ]
    for reward in (math_reward, exact_match_reward):
        assert [text for text in texts if reward(None, [text], answer=["42"]) != [0.0]] == []


@pytest.mark.parametrize(
    "phrase",
    [
        "cookies to start with",
        "bananas over all",
        "students went home",
        "eggs were eaten",
        "more apples",
    ],
)
def test_what_follows_in_a_sentence_is_not_counted(phrase):
    assert exact_match_reward(None, [f"Answer: In the end 42 {phrase}."], answer=["42"]) == [1.0]


@pytest.mark.parametrize("word", ["crimpled", "frobnicated", "blorpish", "glorp"])
def test_unknown_words_right_behind_a_number_are_no_units(word):
    assert exact_match_reward(
        None, [rf"\boxed{{42 {word}}}", f"The answer is 42 {word}."], answer=["42"] * 2
    ) == [0.0, 0.0]


def test_one_thing_may_be_singular():
    assert are_counted(["apple"], single=True) and not are_counted(["apple"])
    assert not are_counted(["halved"], single=True) and not are_counted(["zillion"], single=True)
    texts = [
        r"\boxed{1 apple}",
        r"\boxed{0.5 \text{ pizza}}",
        r"\boxed{\frac{1}{2} pizza}",
        "The answer is 1 apple.",
    ]
    assert math_reward(None, texts, answer=["1", "0.5", "1/2", "1"]) == [1.0] * 4


@pytest.mark.parametrize(
    "before", ["quintuple", "tripling", "the negation of", "the opposite of", "half of", "twice"]
)
def test_what_stands_before_a_number_counts_too(before):
    assert math_reward(
        None, [f"The answer is {before} 42.", rf"\boxed{{\text{{{before} }}42}}"], answer=["42"] * 2
    ) == [0.0, 0.0]


def test_forms_are_told_without_a_list():
    assert all(
        map(
            changes_value,
            ["octillion", "bazillions", "fortieths", "sixtyfold", "nonupled", "conjugated"],
        )
    )
    assert not any(
        map(
            changes_value,
            ["months", "scaffolds", "pavilion", "cups", "mistakes", "additions", "floors"],
        )
    )


@pytest.mark.parametrize("word", ["more", "fewer", "additional"])
def test_a_comparison_without_its_other_side_is_a_count(word):
    texts = [rf"\boxed{{42 {word}}}", f"#### 42 {word}", f"So the answer is 42 {word}."]
    assert (
        math_reward(None, texts, answer=["42"] * 3)
        == exact_match_reward(None, texts, answer=["42"] * 3)
        == [1.0] * 3
    )
    others = [
        f"So the answer is 42 {word} than 7.",
        f"So the answer is 42 or {word}.",
        f"So the answer is {word} than 42.",
    ]
    assert (
        math_reward(None, others, answer=["42"] * 3)
        == exact_match_reward(None, others, answer=["42"] * 3)
        == [0.0] * 3
    )
