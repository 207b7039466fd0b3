"""What a run has cost until each row: hand-worked rows."""

import pytest

from rlhf_jax.runs.clock import costs, knows_compiling, start_seconds


def row(split, step, elapsed, **values):
    named = {name.replace("__", "/"): value for name, value in values.items()}
    return {"split": split, "step": step, "time/elapsed": elapsed} | named


ONLINE = [
    # 8 s of loading, 4 s of evaluation, 3 s of it compiling
    row("eval", 0, 12.0, time__evaluate=4.0, time__compile=3.0),
    row("train", 1, 19.0, time__step=7.0, time__compile=5.0, data__tokens_generated=100.0),
    row("train", 2, 21.0, time__step=2.0, data__tokens_generated=110.0),
    row("eval", 2, 22.0, time__evaluate=1.0),
    row("train", 3, 24.0, time__step=2.0, data__tokens_generated=90.0),
]


def test_training_is_apart_from_start_compilation_and_evaluations():
    found = costs(ONLINE)
    assert [cost.seconds for cost in found] == [0.0, 2.0, 4.0, 4.0, 6.0]
    assert [cost.compiling for cost in found] == [3.0, 8.0, 8.0, 8.0, 8.0]
    assert [cost.evaluating for cost in found] == [4.0, 4.0, 4.0, 5.0, 5.0]
    assert [cost.tokens for cost in found] == [0.0, 100.0, 210.0, 210.0, 300.0]
    assert start_seconds(ONLINE) == 8.0


def test_without_a_first_evaluation_the_start_is_what_was_before_the_first_step():
    rows = [
        row("train", 1, 10.0, time__step=4.0, time__compile=3.0),
        row("train", 2, 11.0, time__step=1.0),
    ]
    assert start_seconds(rows) == 6.0
    assert [cost.seconds for cost in costs(rows)] == [1.0, 2.0]


def test_steps_without_a_row_are_like_the_one_that_has():
    rows = [row("train", step, 1.0 * step, data__tokens_generated=10.0) for step in (5, 10)]
    assert [cost.tokens for cost in costs(rows)] == [50.0, 100.0]


def test_nothing_falls_and_damaged_values_do_not_count():
    rows = [
        row("train", 1, 5.0, time__step=9.0),
        row("train", 2, float("nan"), time__compile=float("nan")),
        row("train", 3, 6.0),
    ]
    assert [cost.seconds for cost in costs(rows)] == [5.0, 5.0, 6.0]
    assert costs([]) == [] and start_seconds([]) == 0.0


@pytest.mark.parametrize(("rows", "known"), [(ONLINE, True), (ONLINE[2:], False)])
def test_old_runs_do_not_say_what_they_compiled(rows, known):
    assert knows_compiling(rows) is known
