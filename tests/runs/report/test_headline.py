"""What a run is judged by."""

import pytest

from rlhf_jax.runs.report.headline import headline_of
from rlhf_jax.runs.report.reading import read_run
from tests.runs.report.folders import GRPO, make_run


def headline(tmp_path, config=GRPO, **options):
    return headline_of(read_run(make_run(tmp_path / "run", config, **options)))


def test_held_out_accuracy_of_samples_comes_first(tmp_path):
    found = headline(tmp_path)
    assert (found.split, found.metric) == ("eval", "accuracy/mean@4")
    assert found.words == "held out: sampled answers right"
    assert (found.first, found.best_step) == (pytest.approx(0.3), 40)
    assert found.last == found.best > 0.8


def test_without_evaluations_it_is_training_and_not_a_single_row(tmp_path):
    found = headline(tmp_path, evaluations=False)
    assert (found.split, found.metric) == ("train", "data/accuracy")
    # four rows of forty: steps 1 to 4 and 37 to 40
    assert found.first == pytest.approx(0.1 + 0.5 * 2.5 / 40)
    assert found.last == pytest.approx(0.1 + 0.5 * 38.5 / 40)


@pytest.mark.parametrize(
    ("options", "lower", "step"),
    [
        ({"best_metric": "accuracy/greedy"}, False, 40),
        ({"best_metric": "accuracy/greedy", "best_mode": "min"}, True, 0),
    ],
)
def test_the_run_itself_may_say_what_is_best(tmp_path, options, lower, step):
    found = headline(tmp_path, GRPO | {"checkpoint": options})
    assert found.metric == "accuracy/greedy"
    assert (found.lower_is_better, found.best_step) == (lower, step)


def test_a_run_without_values_has_none(tmp_path):
    assert headline(tmp_path, steps=0, evaluations=False) is None
