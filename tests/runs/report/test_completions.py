"""Which completions a report takes."""

import pytest

from rlhf_jax.runs.report.completions import Limits, _refining, read_completions, shorten
from rlhf_jax.runs.report.reading import read_run
from tests.runs.report.folders import GRPO, make_run


def test_steps_are_spread_evenly_wherever_the_order_is_cut():
    keys = [(step, "train") for step in range(9)]
    order = [step for step, _ in _refining(keys)]
    assert order == [8, 0, 4, 6, 2, 7, 5, 3, 1]
    assert [step for step, _ in _refining(keys[:1])] == [0]
    assert list(_refining([])) == []


def test_a_step_or_a_split_can_be_asked_for(tmp_path):
    rows = [("train", step, "p", f"{step}", 1.0) for step in (1, 2, 3)]
    rows += [("eval", 2, "p", "held", 0.0)]
    run = read_run(make_run(tmp_path / "run", completions=rows))
    texts = {
        (step, split): [
            row["completion"]
            for row in read_completions(run, Limits(), step=step, split=split).rows
        ]
        for step in (None, 2)
        for split in (None, "eval")
    }
    assert texts[None, None] == ["1", "held", "2", "3"]
    assert texts[2, None] == ["held", "2"]
    assert texts[None, "eval"] == texts[2, "eval"] == ["held"]
    assert read_completions(run, Limits()).total == 4
    assert read_completions(run, Limits()).notes == []


@pytest.mark.parametrize(
    ("changes", "verdicts"),
    [
        ({}, [True, False]),
        ({"accuracy_reward": "short"}, [True, True]),
        ({"accuracy_reward": "gone"}, [None, None]),
    ],
)
def test_the_verdict_is_that_of_the_run(tmp_path, changes, verdicts):
    config = GRPO | {"algorithm": GRPO["algorithm"] | changes}
    rows = [("train", 1, "p", "good", 1.0), ("train", 2, "p", "bad", 0.0)]
    run = read_run(make_run(tmp_path / "run", config, completions=rows))
    assert [row["right"] for row in read_completions(run, Limits()).rows] == verdicts


def test_a_long_text_keeps_beginning_and_end():
    text = "a" * 80 + "b" * 40
    assert shorten(text, 120) == text
    assert shorten(text, 30) == f"{'a' * 20}\n… 90 characters left out …\n{'b' * 10}"
