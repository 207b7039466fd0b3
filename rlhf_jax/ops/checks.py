"""Checks of static arguments: one-line errors that name the value and the mend."""

import difflib
import math
from collections.abc import Sequence


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Refuses a name that is not on the list.

    Args:
      name: argument or field, for the message.
      value: what was given.
      allowed: the names that exist.

    Raises:
      ValueError: one line with the value, the list and the nearest name.

    Example:
      >>> from rlhf_jax.ops.checks import check_choice
      >>> check_choice("mode", "sequnce", ("token", "sequence"))
      Traceback (most recent call last):
      ValueError: mode='sequnce' is not known: use one of token, sequence (did you mean 'sequence'?)
    """
    if value in allowed:
        return
    near = difflib.get_close_matches(str(value), allowed, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"{name}={value!r} is not known: use one of {', '.join(allowed)}{hint}")


def check_range(
    name: str,
    value: object,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> None:
    """Refuses a Python number outside low <= value <= high, above < value < below, or not finite.

    Traced values and None pass: they have no value to look at.

    Args:
      name: argument or field, for the message.
      value: what was given.
      low: smallest allowed.
      high: largest allowed.
      above: must be larger than this.
      below: must be smaller than this.

    Raises:
      ValueError: one line with the value and the range.

    Example:
      >>> from rlhf_jax.ops.checks import check_range
      >>> check_range("beta", 0.0, above=0)
      Traceback (most recent call last):
      ValueError: beta=0.0 is out of range: give a finite number with beta > 0
    """
    if not isinstance(value, int | float):
        return
    limits = [
        (low, ">=", lambda v, bound: v >= bound),
        (above, ">", lambda v, bound: v > bound),
        (high, "<=", lambda v, bound: v <= bound),
        (below, "<", lambda v, bound: v < bound),
    ]
    given = [(bound, sign, holds) for bound, sign, holds in limits if bound is not None]
    if math.isfinite(value) and all(holds(value, bound) for bound, _, holds in given):
        return
    wanted = " and ".join(f"{name} {sign} {bound:g}" for bound, sign, _ in given)
    raise ValueError(
        f"{name}={value!r} is out of range: give a finite number"
        + (f" with {wanted}" if wanted else "")
    )


def is_zero(coefficient: object) -> bool:
    """Whether a coefficient is the Python number 0: what it multiplies need not be computed.

    Args:
      coefficient: a number, or a traced value, whose term is always computed.

    Returns:
      True for 0 and 0.0 only.

    Example:
      >>> from rlhf_jax.ops.checks import is_zero
      >>> is_zero(0.0), is_zero(0.1)
      (True, False)
    """
    return isinstance(coefficient, int | float) and coefficient == 0
