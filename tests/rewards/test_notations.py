"""Ratios, times of the day and numbers with a base."""

import pytest

from rlhf_jax.rewards.equivalence import equivalent, is_readable
from rlhf_jax.rewards.notations import based, clock, ratio


def test_read():
    assert (
        clock(r"2:05 \text{ p.m.}") == clock("02:05 PM") == ("time", "2", "05", "p")
        and clock("2:05") is None
    )
    assert ratio("6:4") == ratio("3:2") and ratio("2:05") == ("time", "2", "05")
    assert (
        based("101_2") == (5,)
        and based("18_{(16)}") == based(r"18_{\text{hex}}") == (24,)
        and based("18_{dozenal}") is None
    )


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [("2:05 pm", 1), ("2:05", 1), ("2:05 am", 0), ("2:06 pm", 0), ("14:05", 0), ("5", 0)],
)
def test_times_of_the_day(answer, wanted):
    assert is_readable(r"2:05 \text{ p.m.}") and equivalent(answer, r"2:05 \text{ p.m.}") == bool(
        wanted
    )


@pytest.mark.parametrize(
    "answer",
    ["18_{(16)}", "18_{hex}", r"18_{\text{hex}}", "18_{dozenal}", "18_x", "18^T", r"18^{\top}"],
)
def test_a_number_with_a_mark_is_not_the_number(answer):
    assert not equivalent(answer, "18") and not equivalent("18", answer)
