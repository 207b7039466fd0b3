"""When a run ends before its last step because its evaluations no longer improve."""

import math
from collections.abc import Mapping

from rlhf_jax.config import EarlyStoppingConfig


def why_stop(
    evaluations: Mapping[int, Mapping[str, float]],
    rule: EarlyStoppingConfig,
    *,
    metric: str,
    largest: bool,
) -> str | None:
    """Whether the last evaluations say that a run is to end.

    A function of what was evaluated, in earlier sessions too, so that a run that goes on decides
    what a whole one would.

    Args:
      evaluations: step -> metrics, the one before the first step included.
      rule: how long to wait.
      metric: that must improve; where an evaluation has no number for it, it has not.
      largest: large values are good.

    Returns:
      The reason in words, or None.
    """
    best: tuple[int, float] | None = None
    waited = 0
    for step in sorted(evaluations):
        value = evaluations[step].get(metric, math.nan)
        gain = math.inf if best is None else (value - best[1]) * (1 if largest else -1)
        if not math.isnan(value) and gain > rule.min_delta:
            best = (step, value)
            waited = 0
        else:
            waited += 1
    if waited < rule.patience:
        return None
    so_far = "it was never measured" if best is None else f"best {best[1]:.6g} at step {best[0]}"
    margin = f" by more than {rule.min_delta:g}" if rule.min_delta else ""
    return (
        f"{metric} has not improved{margin} in {waited} evaluations (training.early_stopping."
        f"patience={rule.patience}); {so_far}"
    )
