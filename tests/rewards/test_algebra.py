"""Comparison by value: what cannot be worked out is wrong and never raises."""

import logging
import random

import pytest

from rlhf_jax.rewards import algebra
from rlhf_jax.rewards.equivalence import equivalent, is_readable
from rlhf_jax.rewards.math import math_reward

NO_VALUE = [
    *(
        r"\frac{\infty}{\infty}",
        r"\infty-\infty",
        r"1^\infty",
        r"0\cdot\infty",
        r"\infty^0",
        r"\frac{0}{0}",
        "0^{i}",
    ),
    *(r"\log_0 0", r"1\le i\le 5", "i>3", r"|x|<i", "[i,5]", r"\max(1,i)", r"\min(i,2)"),
    *("i!", r"\binom{i}{2}", r"5 \bmod i", r"\gcd(i,5)", r"\sum_{k=1}^{i}k", r"\log_i i", "(1,i)"),
    *(
        r"\begin{pmatrix}1&2\\2&4\end{pmatrix}^{-1}",
        r"\begin{pmatrix}1\\2\end{pmatrix}\begin{pmatrix}1\\2\end{pmatrix}",
    ),
    *(
        r"\begin{pmatrix}1&2\\3\end{pmatrix}",
        r"\begin{pmatrix}1\\2\end{pmatrix}+1",
        "0<1",
        "1=1",
        "x=x",
    ),
]
GOLDS = [
    "5",
    "i",
    r"\ln 2",
    "(1,2)",
    "[1,2]",
    "x>3",
    "y=2x+1",
    "1,2",
    r"\emptyset",
    r"\infty",
    r"\begin{pmatrix}1\\2\end{pmatrix}",
]


@pytest.mark.parametrize("gold", GOLDS)
def test_what_has_no_value_is_wrong_and_not_ungraded(gold):
    texts = [rf"\boxed{{{answer}}}" for answer in NO_VALUE]
    assert math_reward(None, [rf"\boxed{{{gold}}}"], answer=[gold]) == [1.0]
    assert math_reward(None, texts, answer=[gold] * len(texts)) == [0.0] * len(texts)


def test_an_odd_answer_is_no_number():
    texts = [r"\boxed{\lceil\infty\rceil}", r"\boxed{i\in[1,2]}", r"\boxed{\lfloor i\rfloor}"]
    assert math_reward(None, texts, answer=["5"] * 3) == [0.0] * 3


def test_whatever_the_parser_raises_is_a_wrong_answer(monkeypatch, caplog):
    def parse(text, **kwargs):
        raise {"y": RuntimeError, "z": AssertionError}.get(text[-2], KeyError)("from far below")

    algebra._parsed.cache_clear()
    monkeypatch.setattr(algebra, "parse", parse)
    with caplog.at_level(logging.DEBUG, logger=algebra.__name__):
        assert math_reward(None, [r"\boxed{2+y}", r"\boxed{2+z}"], answer=["5", "5"]) == [0.0, 0.0]
    assert sum("cannot compare" in record.getMessage() for record in caplog.records) == 2
    assert not is_readable("3x+y")  # a right answer that cannot be read leaves its row out
    algebra._parsed.cache_clear()


def test_memory_is_no_answer(monkeypatch):
    def parse(text, **kwargs):
        raise MemoryError

    algebra._parsed.cache_clear()
    monkeypatch.setattr(algebra, "parse", parse)
    with pytest.raises(MemoryError):  # the pool says what becomes of it
        algebra.same("2+y", "5")
    algebra._parsed.cache_clear()


def test_nothing_that_is_written_raises():
    rng = random.Random(0)
    pieces = [
        *(
            r"\infty",
            "i",
            "0",
            "1",
            "x",
            "-",
            "+",
            "^",
            "_",
            "<",
            r"\le",
            "=",
            ",",
            "!",
            "|",
            "%",
            ":",
            ".",
            "/",
            r"\pm",
        ),
        *(
            "(",
            ")",
            "[",
            "]",
            "{",
            "}",
            r"\{",
            r"\}",
            r"\frac{1}{0}",
            r"\sqrt{-1}",
            r"\log_0",
            r"\max(",
            r"\gcd(",
            r"\lfloor",
        ),
        *(
            r"\rfloor",
            r"\binom{i}{-1}",
            r"\cup",
            r"\in",
            r"\mathbb{R}",
            r"\emptyset",
            r"\text{ and }",
            " or ",
            r"\mid",
            "e3",
        ),
        *(
            r"\begin{pmatrix}",
            r"\end{pmatrix}",
            "&",
            r"\\",
            "^T",
            "^{-1}",
            "2:05",
            " p.m.",
            "万",
            "个",
            r"\langle",
            r"\rangle",
        ),
    ]
    texts = [
        rf"\boxed{{{''.join(rng.choices(pieces, k=rng.randrange(1, 6)))}}}" for _ in range(150)
    ]
    for gold in ("5", "(1,2)", "x>3", r"\mathbb{R}"):
        assert set(math_reward(None, texts, answer=[gold] * len(texts))) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("answer", "target"), [("i>3", "i>3"), ("3<i", "i>3"), (r"1\le i\le 5", r"1\le i\le 5")]
)
def test_a_compared_i_is_a_letter(answer, target):
    assert equivalent(answer, target) and is_readable(target)


def test_an_i_in_an_expression_is_imaginary():
    assert (
        equivalent(r"\sqrt{-1}", "i") and equivalent("z = 3+4i", "3+4i") and equivalent("i^2", "-1")
    )


@pytest.mark.parametrize(
    "everything",
    [r"x>-\infty", r"x\ge -\infty", r"-\infty<x<\infty", r"x<+\infty", r"x^2\ge 0", "x=x", "0<1"],
)
def test_what_holds_for_all_numbers_is_not_the_empty_set(everything):
    assert not equivalent(everything, r"\emptyset") and not equivalent(r"\emptyset", everything)


@pytest.mark.parametrize(
    "everything",
    [r"x>-\infty", r"-\infty<x<\infty", r"x<+\infty", r"(-\infty,\infty)", r"\mathbb{R}"],
)
def test_all_numbers(everything):
    assert equivalent(everything, r"\mathbb{R}") and equivalent(everything, r"(-\infty,\infty)")
    assert not equivalent(everything, "(0,1)") and not equivalent("x>3", r"\mathbb{R}")
