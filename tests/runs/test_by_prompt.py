"""What was reached on each prompt, against numbers written by hand."""

import math

import numpy as np

from rlhf_jax.runs.by_prompt import means_by_prompt

COLUMNS = {"exact": [1.0, 0.0, 0.0, 1.0, 1.0, math.nan], "length": [3.0, 5.0, 1.0, 1.0, 2.0, 4.0]}
RIGHT = [True, False, False, None, None, None]


def test_of_two_samples_a_prompt():
    found = means_by_prompt(COLUMNS, RIGHT, ["exact", "length"], samples=2, size=2)
    assert set(found) == {"accuracy/mean@2", "rewards/exact_sampled", "rewards/length_sampled"}
    np.testing.assert_array_equal(found["accuracy/mean@2"], [0.5, 0.0, math.nan])
    np.testing.assert_array_equal(found["rewards/exact_sampled"], [0.5, 0.5, 1.0])
    np.testing.assert_array_equal(found["rewards/length_sampled"], [4.0, 1.0, 3.0])


def test_of_greedy_answers():
    found = means_by_prompt(COLUMNS, RIGHT, ["length"], samples=0, size=1)
    assert found["rewards/length"] == COLUMNS["length"]
    assert found["accuracy/greedy"][:3] == [1.0, 0.0, 0.0]
    assert all(math.isnan(value) for value in found["accuracy/greedy"][3:])


def test_where_nobody_judges_there_is_no_accuracy():
    found = means_by_prompt(COLUMNS, [None] * 6, ["exact"], samples=3, size=3)
    assert set(found) == {"rewards/exact_sampled"}
