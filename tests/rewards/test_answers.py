"""Final answers in texts, and right answers in data."""

import pytest

from rlhf_jax.rewards import answer_of, target_of
from rlhf_jax.rewards.answers import as_number, content_of, marked_answer, targets_of


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7, so\n#### 1,234", "1,234"),
        ("#### 1\nno, wait\n#### 2", "2"),
        (r"\boxed{1} no: \boxed{\frac{1}{\sqrt{2}}}.", r"\frac{1}{\sqrt{2}}"),
        (r"#### 3 and \boxed{4}", "4"),
        ("<think>#### 5</think> It is. The answer is: 6.", "6"),
        ("<answer> 7 </answer>", "7"),
        (r"<answer>it is \boxed{8}</answer> #### 9", "8"),
        ("no mark, 5", None),
        (r"\boxed{never closed", None),
        (r"\boxed{1} \boxed{never closed", "1"),
        ("<answer>1</answer><answer>2", "1"),
        ("<think>#### 5</think> nothing after", None),
    ],
)
def test_marked_answer(text, answer):
    assert marked_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("18", "18"),
        ("#### $1,200.00", "1200"),
        (r"\boxed{\frac{6}{8}}", "3/4"),
        (r"\boxed{-\dfrac12}", "-1/2"),
        (r"\boxed{3\frac{1}{2}}", "7/2"),
        ("The total is 18 dollars.", "18"),
        ("12 - 5 = 7\n7 - 3 = 4", "4"),
        ("1 2 3", "1 2 3"),
        ("(3 + 4) * 2", "(3 + 4) * 2"),
        (r"we get $\frac{1}{2}$ of 30", "1/2"),
        ("The answer is Paris.", "paris"),
        ("<think>9</think>", None),
        ("", None),
        ("words only\nin lines", None),
        ([{"role": "assistant", "content": "#### 5 km"}], "5"),
        ([{"role": "assistant", "content": [{"type": "text", "text": "#### 5"}]}], "5"),
        ([], None),
    ],
)
def test_answer_of(text, answer):
    assert answer_of(text) == answer


def test_equal_answers_have_one_normal_form():
    written = [
        "#### 0.5",
        r"\boxed{\frac{1}{2}}",
        r"\boxed{\frac{2}{4}}",
        "The answer is 1/2.",
        "<answer>.50</answer>",
        "5e-1",
    ]
    assert {answer_of(text) for text in written} == {"1/2"}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5x", None),
        ("6 or 7", None),
        ("5 sqrt 2", None),
        ("1/0", None),
        ("1e999999999", None),
        ("", None),
        ("5 m/s", 5),
        ("5 x", None),
    ],
)
def test_units_are_no_variables(text, number):
    assert as_number(text) == number


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "part",
    [
        "\\boxed{",
        "{",
        "9",
        "$",
        "\\(",
        "answer is ",
        "answer is\n",
        "1,000",
        "1,",
        "<answer>",
        "</answer>",
        "<think>",
        "\\boxed{5}, ",
        "\\boxed{5} and \\boxed{6} ",
        "#### 5\n",
        "final answer is 5. ",
        "5 or ",
        "**",
        "\\text{ a }",
        "####",
        " ",
        "\\frac",
        "1/",
    ],
)
def test_work_is_linear_in_the_text(part):
    long = part * min(30000, 300_000 // len(part))
    answer_of("answer is" + long)
    answer_of("x\n" + long)


@pytest.mark.parametrize(
    "columns",
    [
        {"answer": ["why\n#### 18"]},
        {"solution": ["18"], "text": ["x"]},
        {"ground_truth": [18]},
        {"reward_model": [{"style": "rule", "ground_truth": "18"}]},
        {"reward_model.ground_truth": ["18"]},
        {"answer": ["18"], "solution": ["a long way"]},
    ],
)
def test_target_of(columns):
    assert target_of(columns, 0) == "18"


def test_targets_may_be_several_or_none():
    columns = {"answer": [["a", "b"], None, []]}
    assert targets_of(columns, 0) == ("a", "b")
    assert targets_of(columns, 1) is None and target_of(columns, 2) is None
    with pytest.raises(
        ValueError, match=r"no column with the right answer: question; .*data\.columns"
    ):
        target_of({"question": ["x"]}, 0)


def test_content_of_a_conversation_is_its_last_message():
    assert (
        content_of([{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}])
        == "b"
    )
    assert content_of([{"role": "assistant", "content": None}]) == ""
