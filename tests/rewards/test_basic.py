"""Built-in rewards that need no process."""

import pytest

from rlhf_jax.rewards.basic import (
    exact_match_reward,
    format_reward,
    length_reward,
    overlong_reward,
    repetition_reward,
    think_format_reward,
)


def _ids(*lengths):
    return [[1] * length for length in lengths]


def test_exact_match():
    completions = [" 7 ", "#### 7", "8", "so 7"]
    assert exact_match_reward(None, completions, answer=["7"] * 4) == [1.0, 1.0, 0.0, 1.0]
    assert exact_match_reward(None, completions, extract=False, answer=["7"] * 4) == [
        1.0,
        0.0,
        0.0,
        0.0,
    ]
    assert exact_match_reward(None, ["1 2 3", "1 3 2"], answer=["1 2 3"] * 2) == [1.0, 0.0]
    assert exact_match_reward(None, ["x"], answer=[None]) == [None]


@pytest.mark.parametrize(
    ("text", "plain", "with_answer", "opened"),
    [
        ("<think>a</think> b", 1, 0, 0),
        ("<think>a</think><answer>b</answer>", 1, 1, 0),
        ("<think>a</think> so <answer>b</answer>", 1, 0, 0),
        ("<think>a</think>", 0, 0, 0),
        ("a</think> b", 0, 0, 1),
        ("<think>a</think><think>b</think> c", 0, 0, 0),
        ("<think>a<think>b</think> c", 0, 0, 0),
        ("x <think>a</think> b", 0, 0, 0),
        ("<answer>b</answer><think>a</think> c", 0, 0, 0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 1, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_think_format(text, plain, with_answer, opened):
    assert think_format_reward(None, [text]) == [plain]
    assert think_format_reward(None, [text], answer=True) == [with_answer]
    assert think_format_reward(None, [text], opened=True) == [opened]


def test_think_format_knows_whether_the_prompt_opened_the_block():
    text = "First, 2 plus 2.\n</think>\nThe answer is 4."
    assert think_format_reward(["q<think>\n", "q", "q <think> a </think>"], [text] * 3) == [
        1.0,
        0.0,
        0.0,
    ]
    assert think_format_reward(["q<think>\n"], [text], opened=False) == [0.0]
    chat = [{"role": "user", "content": "q <think>"}]
    assert think_format_reward([chat], [text]) == [0.0], "the user wrote it"
    assert think_format_reward(
        [[*chat, {"role": "assistant", "content": "<think>\n"}]], [text]
    ) == [1.0]
    assert think_format_reward([chat] * 2, [text] * 2, prompt_opens_think=[True, False]) == [
        1.0,
        0.0,
    ]
    assert think_format_reward([chat], ["<think>" + text], prompt_opens_think=[False]) == [1.0]


def test_exact_match_drops_nothing_that_changes_a_value():
    wrong = ["2 million", "2 squared", "2!", "2**2", "2 halves", "2 or 3", "2x", "<think>2"]
    assert exact_match_reward(
        None, [f"The answer is {text}" for text in wrong], answer=["2"] * len(wrong)
    ) == [0.0] * len(wrong)
    pairs = [("5 km", "5 m"), ("N", "n"), (r"\Delta", r"\delta"), ("10!", "10")]
    assert [exact_match_reward(None, [rf"\boxed{{{a}}}"], answer=[b]) for a, b in pairs] == [
        [0.0]
    ] * 4
    right = [
        ("5 km", "5"),
        ("Paris", "paris"),
        ("1,200 apples", "1200"),
        ("2 million", "2,000,000"),
        ("10!", "10!"),
    ]
    assert [exact_match_reward(None, [f"#### {a}"], answer=[b]) for a, b in right] == [[1.0]] * 5


def test_format_pattern():
    completions = ["a\n#### 5", "#### 5\nb", "nothing"]
    assert format_reward(None, completions, pattern=r".*#### \d+") == [1.0, 0.0, 0.0]
    assert format_reward(None, completions, pattern=r"#### \d+", whole=False) == [1.0, 1.0, 0.0]


def test_length():
    assert length_reward(
        None, [""] * 5, _ids(0, 4, 10, 12, 100), max_len=10, min_len=4, slope=8
    ) == [0.5, 1.0, 1.0, 0.75, 0.0]
    with pytest.raises(ValueError, match=r"length\.max_len 3 must be at least 4"):
        length_reward(None, [""], _ids(1), max_len=3, min_len=4)


def test_overlong_is_equation_13():
    # L_max 20, L_cache 8: free up to 12, then -1/8 per token, -1 from 20 on
    assert overlong_reward(
        None, [""] * 6, _ids(1, 12, 13, 16, 20, 50), max_len=20, buffer_len=8
    ) == [0, 0, -0.125, -0.5, -1, -1]
    assert overlong_reward(None, [""], _ids(16), max_len=20, buffer_len=8, factor=2.0) == [-1.0]
    with pytest.raises(ValueError, match=r"overlong\.buffer_len 0 must be at least 1"):
        overlong_reward(None, [""], _ids(1), max_len=20, buffer_len=0)


def test_repetition_counts_repeated_ngrams():
    # "a b a b a b": 4 trigrams, 2 distinct
    assert repetition_reward(None, ["a b a B a b", "a b c d", "a b", ""], n=3) == [
        -0.5,
        0.0,
        0.0,
        0.0,
    ]
    assert repetition_reward(None, ["a a a a"], n=1, max_penalty=2.0) == [-1.5]
