"""Expressions are read as written, worked out exactly, and nothing else passes."""

import ast
import itertools
import operator
import random
from collections import Counter
from fractions import Fraction

import pytest

from rlhf_jax.rewards.formulas import MAX_LENGTH, leaves_of, parsed, value_of

SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def drawn(draw, depth, x):
    """A random expression: its fully parenthesised text, its leaves, and its value by brute force,
    None where something is divided by zero."""
    if depth == 0 or draw.random() < 0.3:
        if draw.random() < 0.4:
            return "x", Counter(["x"]), Fraction(x)
        number = draw.randint(0, 12)
        return str(number), Counter([number]), Fraction(number)
    sign = draw.choice(list(SIGNS))
    left, left_leaves, one = drawn(draw, depth - 1, x)
    right, right_leaves, other = drawn(draw, depth - 1, x)
    undefined = one is None or other is None or (sign == "/" and other == 0)
    value = None if undefined else SIGNS[sign](one, other)
    return f"({left} {sign} {right})", left_leaves + right_leaves, value


def test_against_a_brute_force_evaluator():
    draw = random.Random(0)
    undefined = 0
    for _ in range(1000):
        x = draw.randint(-5, 9)
        text, leaves, value = drawn(draw, draw.randint(0, 4), x)
        if len(text) > MAX_LENGTH:
            continue
        tree = parsed(text, ("x",))
        assert tree is not None and leaves_of(tree) == leaves, text
        assert value_of(tree, {"x": x}) == value, (text, x)
        undefined += value is None
    assert undefined > 10


@pytest.mark.parametrize("signs", list(itertools.product("+-*", repeat=3)))
def test_precedence_without_parentheses(signs):
    """By hand: products first, then from the left."""
    numbers = [7, 3, 2, 5]
    text = "7" + "".join(f"{sign}{n}" for sign, n in zip(signs, numbers[1:], strict=True))
    terms = [[1, 7]]
    for sign, n in zip(signs, numbers[1:], strict=True):
        if sign == "*":
            terms[-1][1] *= n
        else:
            terms.append([1 if sign == "+" else -1, n])
    assert value_of(parsed(text)) == sum(sign * size for sign, size in terms)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",  # unknown to this call
        "-3",
        "3**2",
        "3//2",
        "3.5",
        "3(4)",
        "(3,4)",
        "3 4",
        "0x3",
        "1_0",
        "03",
        "3+",
        "(3",
        "9" * (MAX_LENGTH + 1),
        "(" * 150 + "3",
    ],
)
def test_everything_else_is_refused(text):
    assert parsed(text) is None


@pytest.mark.parametrize("text", ["2x", "x2", "xx", "x*0x3", "0x3*x", "y+1", "x.real", "x()", "-x"])
def test_letters_that_are_no_unknown(text):
    assert parsed(text, ("x",)) is None


def test_an_unknown_that_is_not_given_is_no_zero():
    with pytest.raises(KeyError):
        value_of(parsed("x+1", ("x",)))


def test_nothing_is_called():
    tree = ast.parse("f(3)", mode="eval").body
    with pytest.raises(ValueError, match="Call is no part of an expression"):
        leaves_of(tree)
