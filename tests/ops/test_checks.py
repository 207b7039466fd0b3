"""check_choice and check_range: one-line errors."""

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax.ops.checks import check_choice, check_range


def test_choice_without_a_near_name():
    with pytest.raises(ValueError, match=r"^mode='xyz' is not known: use one of token, sequence$"):
        check_choice("mode", "xyz", ("token", "sequence"))
    check_choice("mode", "token", ("token", "sequence"))


@pytest.mark.parametrize(
    ("value", "limits", "wanted"),
    [
        (-1, {"low": 0}, "x >= 0"),
        (2.0, {"high": 1}, "x <= 1"),
        (0.5, {"low": 0, "below": 0.5}, "x >= 0 and x < 0.5"),
        (0, {"above": 0}, "x > 0"),
        (float("inf"), {"low": 0}, "x >= 0"),
    ],
)
def test_range(value, limits, wanted):
    with pytest.raises(
        ValueError, match=f"^x={value!r} is out of range: give a finite number with {wanted}$"
    ):
        check_range("x", value, **limits)


def test_range_without_limits_still_wants_a_finite_number():
    with pytest.raises(ValueError, match=r"^x=nan is out of range: give a finite number$"):
        check_range("x", float("nan"))
    check_range("x", -3.0)


def test_traced_values_and_none_pass():
    check_range("x", None, low=0)
    jax.jit(lambda x: check_range("x", x, low=0))(jnp.float32(-1.0))
