"""How soon a run gets somewhere, on curves written by hand."""

import math

import pytest

from rlhf_jax.runs.convergence import common_level, convergence, cost_to, own_level
from tests.runs.test_budgets import METRIC, measured

NAN = math.nan


def test_its_own_level_is_a_share_of_the_way():
    assert own_level(measured("a", 0, [0.2, 0.9, 0.6]), METRIC, share=0.5) == pytest.approx(0.4)
    assert own_level(measured("a", 0, [0.1, 0.3]), METRIC, share=1.0) == 0.3
    for values in ([0.6, 0.9, 0.6], [0.6, 0.5], [0.6], [0.2, NAN], [NAN, 0.5]):
        assert math.isnan(own_level(measured("a", 0, values), METRIC))


def test_the_common_level_is_the_lowest_end_that_is_above_a_start():
    runs = [measured("a", 0, [0.2, 0.7]), measured("b", 0, [0.2, 0.5])]
    assert common_level(runs, METRIC) == 0.5
    # one that got worse would set a level that everybody has from the start
    assert common_level([*runs, measured("c", 0, [0.2, 0.1])], METRIC) == 0.5
    assert math.isnan(common_level([measured("c", 0, [0.2, 0.1])], METRIC))


@pytest.mark.parametrize(
    ("values", "level", "cost", "never"),
    [
        ([0.2, 0.6, 0.55, 0.7], 0.6, 10.0, False),
        ([0.2, 0.6, 0.55, 0.7], 0.65, 30.0, False),
        ([0.2, 0.6, 0.55, 0.7], 0.8, 30.0, True),  # the whole budget
        ([0.2, 0.9, 0.3], 0.9, 10.0, False),  # it was there, and lost it
        ([0.7, 0.8, 0.75], 0.6, 10.0, False),  # from the start: the first evaluation after it
        ([0.7, 0.9, 0.6], 0.6, 20.0, True),  # it ends worse than it started
        ([0.2, 0.4], NAN, 10.0, True),
    ],
)
def test_what_never_happens_costs_the_whole_budget(values, level, cost, never):
    assert cost_to(measured("a", 0, values), METRIC, level, "step") == (cost, never)


def test_costs_are_those_of_the_evaluation():
    run = measured("a", 0, [0.2, 0.4, 0.6], tokens=64.0)
    costs = [cost_to(run, METRIC, 0.5, cost).cost for cost in ("step", "tokens", "seconds")]
    assert costs == [20.0, 128.0, 4.0]


def test_every_trained_run_has_both_figures():
    quick = measured("quick", 0, [0.1, 0.5, 0.5])
    slow = measured("slow", 0, [0.1, 0.3, 0.7])
    other = measured("slow", 1, [0.1, 0.2])
    untrained = measured("best_of", 0, [0.1, 0.9])
    untrained = untrained._replace(curve=[point | {"step": 0.0} for point in untrained.curve])
    found = convergence([quick, slow, other, untrained], METRIC)
    assert set(found) == {("quick", 0), ("slow", 0), ("slow", 1)}
    assert found["quick", 0]["own"]["step"] == found["quick", 0]["common"]["step"] == 10.0
    # the lowest end of seed 0 is quick's, and the untrained run sets none
    common = {"level": 0.5, "is_never": False, "step": 20.0, "tokens": 200.0, "seconds": 4.0}
    assert found["slow", 0]["common"] == common
    assert found["slow", 1]["common"]["level"] == 0.2


def test_an_evaluation_that_could_not_be_judged_is_passed_over():
    run = measured("a", 0, [0.1, 0.5, 0.5])
    gap = run._replace(curve=[run.curve[0], {"step": 10.0, "tokens": 1.0}, run.curve[2]])
    assert cost_to(gap, METRIC, 0.4, "step") == (20.0, False)
