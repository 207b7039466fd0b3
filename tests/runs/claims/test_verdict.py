"""The rule: every outcome by hand, and what holds of it for all intervals."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.runs.claims.verdict import (
    CONFIRMED,
    DIRECTION,
    REFUTED,
    UNDECIDED,
    is_excluded,
    verdict,
)

NAN = float("nan")


@pytest.mark.parametrize(
    ("low", "high", "said", "excluded"),
    [
        (9.3, 12.0, CONFIRMED, False),
        (9.2, 12.0, CONFIRMED, False),  # a bound that is just met
        (9.1, 12.0, DIRECTION, False),
        (0.5, 3.0, DIRECTION, True),  # an effect, and not the claimed one
        (0.5, 9.2, DIRECTION, False),
        (0.0, 3.0, REFUTED, True),  # no effect is not excluded
        (-1.0, 3.0, REFUTED, True),
        (-5.0, -1.0, REFUTED, True),
        (-1.0, 9.2, UNDECIDED, False),
        (-1.0, 12.0, UNDECIDED, False),
        (NAN, NAN, UNDECIDED, False),
        (10.0, 10.0, CONFIRMED, False),  # memory has no chance in it
        (5.0, 5.0, DIRECTION, True),
        (0.0, 0.0, REFUTED, True),
    ],
)
def test_nine_points_claimed(low, high, said, excluded):
    assert verdict(9.2, low, high) == said
    assert is_excluded(9.2, low, high) is excluded
    assert verdict(-9.2, -high, -low, side="below") == said
    assert is_excluded(-9.2, -high, -low, side="below") is excluded


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.001, 0.007, CONFIRMED),
        (0.0, 0.008, CONFIRMED),
        (0.001, 0.009, UNDECIDED),
        (0.009, 0.02, REFUTED),
        (NAN, NAN, UNDECIDED),
    ],
)
def test_a_bound_has_no_direction(low, high, said):
    assert verdict(0.008, low, high, side="below", nothing=None) == said


def test_a_bound_may_be_zero_and_lie_above():
    assert verdict(0.0, 0.1, 0.2, nothing=None) == CONFIRMED
    assert verdict(0.5, 0.1, 0.2, nothing=None) == REFUTED


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((1.0, 2.0, 1.0), {}, "must begin with its lower end"),
        ((0.0, 1.0, 2.0), {}, "must lie beyond 0.0"),
        ((-1.0, 1.0, 2.0), {}, "must lie beyond 0.0"),
        ((1.0, 1.0, 2.0), {"side": "below"}, "must lie beyond"),
    ],
)
def test_refusals(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        verdict(*arguments, **options)


numbers = st.floats(-100, 100, allow_nan=False)
positive = st.floats(0.01, 100)


def ends(pair):
    return min(pair), max(pair)


@given(positive, st.tuples(numbers, numbers).map(ends))
def test_the_word_means_what_it_says(claimed, interval):
    low, high = interval
    said = verdict(claimed, low, high)
    assert (said == CONFIRMED) is (low >= claimed)
    if said == DIRECTION:
        assert 0 < low < claimed
    if said == REFUTED:
        assert low <= 0 and is_excluded(claimed, low, high)
    if said == UNDECIDED:
        assert low <= 0 and high >= claimed


@given(positive, st.tuples(numbers, numbers).map(ends), positive)
def test_units_do_not_matter(claimed, interval, scale):
    low, high = (scale * end for end in interval)
    # products round: a bound that is met to the last digit may fall to either side
    near = min(abs(interval[0] - claimed), abs(interval[1] - claimed)) < 1e-9
    if not near:
        assert verdict(scale * claimed, low, high) == verdict(claimed, *interval)


@given(positive, st.tuples(numbers, numbers).map(ends), st.tuples(numbers, numbers).map(ends))
def test_a_narrower_interval_never_takes_a_decision_back(claimed, outer, inner):
    low, high = (min(max(end, outer[0]), outer[1]) for end in inner)
    before, after = verdict(claimed, *outer), verdict(claimed, low, high)
    allowed = {
        CONFIRMED: {CONFIRMED},
        DIRECTION: {CONFIRMED, DIRECTION},
        REFUTED: {REFUTED, DIRECTION},  # the effect that shows now is still too small
        UNDECIDED: {CONFIRMED, DIRECTION, REFUTED, UNDECIDED},
    }
    assert after in allowed[before]
    assert is_excluded(claimed, low, high) or not is_excluded(claimed, *outer)


def test_without_an_interval_nothing_is_decided():
    for side in ("above", "below"):
        assert verdict(math.copysign(1, 1 if side == "above" else -1), NAN, NAN, side=side) == (
            UNDECIDED
        )
