"""When evaluations say that a run is to end."""

import math

import pytest

from rlhf_jax.config import EarlyStoppingConfig
from rlhf_jax.loops.best import why_stop

NAN = math.nan


@pytest.mark.parametrize(
    ("values", "options", "largest", "stops"),
    [
        ([1.0, 0.9, 0.8, 0.7], {"patience": 1}, False, False),
        ([1.0, 0.9, 0.9], {"patience": 1}, False, True),  # equal is no improvement
        ([1.0, 0.9, 1.1, 1.2], {"patience": 2}, False, True),
        ([1.0, 1.1, 1.2, 0.9], {"patience": 3}, False, False),  # in time
        ([1.0, 1.1, 1.2, 1.3], {"patience": 3}, False, True),
        ([0.1, 0.2, 0.3], {"patience": 1}, True, False),
        ([0.1, 0.2, 0.2], {"patience": 1}, True, True),
        ([1.0, 0.95, 0.92], {"patience": 2, "min_delta": 0.1}, False, True),
        ([1.0, 0.95, 0.85], {"patience": 2, "min_delta": 0.1}, False, False),  # adds up
        ([1.0, NAN, NAN], {"patience": 2}, False, True),
        ([NAN, 1.0], {"patience": 2}, False, False),
        ([1.0], {"patience": 1}, False, False),
        ([], {"patience": 1}, False, False),
    ],
)
def test_table(values, options, largest, stops):
    rows = {10 * n: {"loss/total": value} for n, value in enumerate(values)}
    rule = EarlyStoppingConfig(**options)
    reason = why_stop(rows, rule, metric="loss/total", largest=largest)
    assert (reason is not None) == stops


def test_the_reason_names_the_best():
    rows = {0: {"m": 1.0}, 10: {"m": 0.5}, 20: {"m": 0.6}, 30: {}}
    rule = EarlyStoppingConfig(patience=2, min_delta=0.01)
    assert why_stop(rows, rule, metric="m", largest=False) == (
        "m has not improved by more than 0.01 in 2 evaluations (training.early_stopping."
        "patience=2); best 0.5 at step 10"
    )
    assert why_stop({5: {}}, EarlyStoppingConfig(patience=1), metric="m", largest=True) == (
        "m has not improved in 1 evaluations (training.early_stopping.patience=1); it was never "
        "measured"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 0}, "patience=0 must be at least 1 evaluation"),
        ({"min_delta": -1.0}, "min_delta=-1.0 must not be negative"),
        ({"min_delta": NAN}, "min_delta=nan must not be negative"),
        ({"metric": "mine"}, "metric='mine' does not say whether a large or a small value is good"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        EarlyStoppingConfig(**options)
