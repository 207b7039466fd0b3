"""Unions of intervals in all their spellings."""

import pytest

from rlhf_jax.rewards.math import math_reward
from rlhf_jax.rewards.unions import as_union

OUTSIDE = [
    r"(-\infty,1)\cup(3,\infty)",
    r"(3,\infty)\cup(-\infty,1)",
    r"(-\infty,1)\text{ or }(3,\infty)",
    r"x<1 \text{ or } x>3",
    "x < 1 or x > 3",
    r"1 > x \text{ or } 3 < x",
    r"x\in(-\infty,1)\cup(3,\infty)",
    r"x \in (-\infty,1) \text{ or } x\in(3,\infty)",
    "(-∞, 1) ∪ (3, ∞)",
    r"(-\infty, 1) U (3, \infty)",
    r"x<1\cup x>3",
]
OTHER = [
    r"(-\infty,1]\cup(3,\infty)",
    r"x<1 \text{ or } x>4",
    r"x\le1 \text{ or } x>3",
    r"x<1 \text{ and } x>3",
    r"x<1 \text{ or } y>3",
    r"(-\infty,1)",
    r"x<1",
    r"(-\infty,3)\cup(1,\infty)",
]


@pytest.mark.parametrize("gold", OUTSIDE[:-1])
def test_same(gold):
    texts = [rf"\boxed{{{text}}}" for text in OUTSIDE]
    assert math_reward(None, texts, answer=[gold] * len(texts)) == [1.0] * len(texts)


@pytest.mark.parametrize("gold", OUTSIDE[:4])
def test_different(gold):
    texts = [rf"\boxed{{{text}}}" for text in OTHER]
    assert math_reward(None, texts, answer=[gold] * len(texts)) == [0.0] * len(texts)


def test_points_are_no_intervals():
    texts = [r"\boxed{(1,2), (3,4)}", r"\boxed{(1,2) \text{ or } (3,4)}"]
    assert math_reward(None, texts, answer=[r"(1,2)\cup(3,4)"] * 2) == [0.0, 1.0]
    assert math_reward(None, texts, answer=["(1,2), (3,4)"] * 2) == [1.0, 1.0]


@pytest.mark.parametrize(
    "text", ["x<1", "5 or 6", "x<1 or 5", r"A \cup B", "x<1<y or x>3", r"(1,2)\cup", "1<2 or x<3"]
)
def test_what_is_no_union_of_intervals(text):
    assert as_union(text) is None
