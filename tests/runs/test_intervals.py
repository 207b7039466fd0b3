"""Interquartile mean and bootstrap against values worked out by hand and by enumeration."""

import itertools
import math

import numpy as np
import pytest

from rlhf_jax.runs.intervals import (
    estimate,
    estimate_crossed,
    interquartile_mean,
    stratified_bootstrap,
)


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


def test_the_crossed_interval_is_that_of_all_resamples_of_seeds_and_prompts():
    """27 draws of the seeds by 4 of the prompts, all equally likely."""
    scores = np.array([[0.0, 0.6], [0.3, 0.1], [0.9, 0.5]])
    means = [
        np.mean([scores[seed, prompt] for seed in seeds for prompt in prompts])
        for seeds in itertools.product(range(3), repeat=3)
        for prompts in itertools.product(range(2), repeat=2)
    ]
    found = estimate_crossed(scores)
    assert found.value == pytest.approx(scores.mean(), abs=1e-12) and found.seeds == 3
    # Between two of the 108 means, whichever of them the 10,000 draws end at.
    ordered = np.sort(means)
    assert ordered[1] <= found.low <= ordered[4]
    assert ordered[-5] <= found.high <= ordered[-2]


def test_prompts_widen_an_interval_that_seeds_alone_would_have_at_a_point():
    """All seeds alike: what is left is that other prompts could have been asked."""
    draw = np.random.default_rng(0)
    prompts = (draw.random(200) < 0.3).astype(float)
    found = estimate_crossed(np.tile(prompts, (5, 1)))
    error = prompts.std() / math.sqrt(200)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert estimate([prompts.mean()] * 5).low == estimate([prompts.mean()] * 5).high


def test_a_prompt_that_a_seed_knows_nothing_of_is_left_out():
    scores = np.array([[0.2, math.nan, 0.4], [0.1, 0.9, 0.3], [0.3, 0.9, 0.5]])
    assert estimate_crossed(scores) == estimate_crossed(scores[:, [0, 2]])
    assert math.isnan(estimate_crossed(np.full((3, 2), math.nan)).value)
    empty = np.full((1, 3), math.nan)
    assert estimate_crossed(np.concatenate([empty, scores])) == estimate_crossed(scores)
    two = estimate_crossed(scores[1:])
    assert two.seeds == 2 and math.isnan(two.low)
