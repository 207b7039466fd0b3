"""What an interval says about a claim.

The rule is written down before anything is measured, and knows nothing of what is measured.
"""

import math
from typing import Literal

Side = Literal["above", "below"]

CONFIRMED = "confirmed"
DIRECTION = "direction only"
REFUTED = "refuted"
UNDECIDED = "undecided at this size"
NOT_MEASURED = "not measured"
RULE = (
    "Confirmed: the whole interval is at least the claim. Direction only: it is not, but the whole "
    "interval lies on the claim's side of no effect. Refuted: the whole interval falls short of "
    "the claim, and does not show its direction either. Undecided at this size: all else, and "
    "fewer than three seeds. Bounds have no direction."
)
"""In words, as it stands below a table."""


def verdict(
    claimed: float, low: float, high: float, *, side: Side = "above", nothing: float | None = 0.0
) -> str:
    """What an interval says about the claim that a quantity is at least, or at most, so large.

    With `side="above"` (else everything is mirrored), the first that holds:

        confirmed               low >= claimed
        direction only          low > nothing
        refuted                 high < claimed
        undecided at this size  else

    "Direction only" comes before "refuted": claimed 9.2 and an interval from 0.5 to 3.0 means that
    there is an effect of the claimed sign, and that it is smaller than claimed. Both are true, and
    "refuted" alone would hide the first. So the word names the strongest part of the claim that
    holds, and `is_excluded` says of the figure itself whether it can still be true; reports show
    both. An interval from -1.0 to 3.0 shows no effect and excludes 9.2: refuted.

    Args:
      claimed: the figure.
      low: end of the interval; NaN where there is none.
      high: the other end.
      side: on which side of the figure the claim says that the quantity lies; the figure itself is
        part of it.
      nothing: the value that means no effect; None: the claim is a bound, which has no direction,
        and "direction only" is not among the answers.

    Returns:
      One of `CONFIRMED`, `DIRECTION`, `REFUTED`, `UNDECIDED`.

    Raises:
      ValueError: low is above high, or the claimed figure lies on the other side of no effect.
    """
    if low > high:
        raise ValueError(f"the interval from {low} to {high} must begin with its lower end")
    if side == "below":
        mirrored = None if nothing is None else -nothing
        return verdict(-claimed, -high, -low, side="above", nothing=mirrored)
    if nothing is not None and claimed <= nothing:
        raise ValueError(
            f"the claimed figure {claimed} must lie beyond {nothing}, which is no effect"
        )
    if math.isnan(low) or math.isnan(high):
        return UNDECIDED
    if low >= claimed:
        return CONFIRMED
    if nothing is not None and low > nothing:
        return DIRECTION
    return REFUTED if high < claimed else UNDECIDED


def is_excluded(claimed: float, low: float, high: float, *, side: Side = "above") -> bool:
    """Whether the whole interval falls short of the claimed figure; never without an interval.

    Args:
      claimed: the figure.
      low: end of the interval; NaN where there is none.
      high: the other end.
      side: as for `verdict`.
    """
    return high < claimed if side == "above" else low > claimed
