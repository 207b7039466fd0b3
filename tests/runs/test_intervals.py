"""Interquartile mean and bootstrap against values worked out by hand and by enumeration."""

import itertools
import math

import numpy as np
import pytest

from rlhf_jax.runs.intervals import estimate, interquartile_mean, stratified_bootstrap


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([5.0], 5.0),
        ([0.0, 0.3, 0.9], 0.4),  # nothing is cut below four
        ([0.0, 1.0, 2.0, 100.0], 1.5),
        ([9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -50.0], 3.5),  # 2, 3, 4, 5
        ([[0.0, 1.0], [2.0, 100.0]], 1.5),  # all tasks together
    ],
)
def test_interquartile_mean(scores, expected):
    assert interquartile_mean(np.array(scores)) == pytest.approx(expected, abs=1e-12)


def test_the_interval_is_that_of_all_resamples():
    """With three seeds there are 27 equally likely resamples: their quantiles are known."""
    values = np.array([0.0, 0.3, 0.9])
    means = sorted(np.mean(drawn) for drawn in itertools.product(values, repeat=3))
    low, high = stratified_bootstrap(values[:, None], level=0.8, repeats=20_000)
    # the 10th and the 90th percentile lie inside of steps of the distribution, not at their edges
    assert low == pytest.approx(means[2], abs=1e-12) == pytest.approx(0.1, abs=1e-12)
    assert high == pytest.approx(means[24], abs=1e-12) == pytest.approx(0.7, abs=1e-12)


def test_seeds_are_drawn_inside_of_each_task():
    """Two tasks of very different scale: a resample holds both, so that the mean moves only by what
    seeds differ in."""
    scores = np.array([[0.0, 100.0], [0.0, 100.0], [0.0, 100.0]])
    assert stratified_bootstrap(scores, lambda drawn: float(drawn.mean())) == (50.0, 50.0)


def test_the_same_draws_give_the_same_interval():
    values = np.arange(5.0)[:, None]
    assert stratified_bootstrap(values) == stratified_bootstrap(values)
    assert stratified_bootstrap(values, seed=1, repeats=10) != stratified_bootstrap(
        values, seed=2, repeats=10
    )


def test_an_interval_needs_three_seeds():
    assert math.isnan(estimate([0.1, 0.2]).low) and estimate([0.1, 0.2]).value == pytest.approx(
        0.15
    )
    found = estimate([0.1, math.nan, 0.2, 0.3])
    assert found.seeds == 3 and 0.1 <= found.low < found.value < found.high <= 0.3
    assert math.isnan(estimate([math.nan]).value)
