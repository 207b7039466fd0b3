"""Boxes: the last that is not taken back, with what around it belongs to it."""

import pytest

from rlhf_jax.rewards.boxes import boxes, retraction


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{5}\text{ million}", "5 million"),
        (r"\boxed{5}\cdot 3", r"5\cdot 3"),
        (r"\boxed{2\sqrt3} - 1", r"(2\sqrt3) - 1"),
        (r"$-\left(\boxed{5}\right)$", "-5"),
        (r"$-(\boxed{a+b})$", "-(a+b)"),
        (r"negative \boxed{5}", "-5"),
        (r"2\boxed{5}", "2(5)"),
        (r"\frac{\boxed{5}}{2}", r"\frac{(5)}{2}"),
        (r"\frac{2}{\boxed{5}}", r"\frac{2}{(5)}"),
        (r"\sqrt{\boxed{5}}", r"\sqrt{(5)}"),
        (r"\boxed{5}m", "5 m"),
        (r"\boxed{5}k", "5k"),
        (r"\boxed{5}, in millions", r"5\text{ (in millions)}"),
        (r"\boxed{5} - that is all", "5"),
        (r"**\boxed{5}**", "5"),
        (r"$x \equiv \boxed{5} \pmod 7$", "5"),
        (r"$\boxed{5} \approx 4.99$", "5"),
    ],
)
def test_what_belongs_to_a_box(text, content):
    assert boxes(text).content == content


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{5}? No.",
        r"\boxed{5} is too small.",
        r"anything but \boxed{5}",
        r"\boxed{5}. Hmm, that is wrong.",
        r"not \boxed{5}",
    ],
)
def test_denied(text):
    assert boxes(text) == (-1, None, True)


def test_several():
    assert boxes("none") == (-1, None, False)
    assert boxes(r"\boxed{1} and \boxed{2}").content == "1, 2"
    assert boxes(r"\boxed{1} is wrong. \boxed{2}") == (29, "2", True)


@pytest.mark.parametrize(
    ("behind", "value"),
    [
        (". Hmm, that is wrong.", None),
        (".\nCorrection: 6.", "6."),
        (" apples. No, it is 6", "6"),
        (". Oops, I made a mistake", None),
    ],
)
def test_retraction(behind, value):
    assert retraction(behind)["value"] == value


@pytest.mark.parametrize(
    "behind",
    [
        "",
        ". It is 6 o'clock.",
        ". That is right.",
        ". Wait, let me check.",
        " and no more",
        ". So it is.",
    ],
)
def test_no_retraction(behind):
    assert retraction(behind) is None
