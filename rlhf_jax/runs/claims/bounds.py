"""Claims about a level: below so much, or above it."""

import math
from statistics import NormalDist

from rlhf_jax.config import BoundConfig, ClaimsConfig
from rlhf_jax.runs.claims.differences import OVER_PROMPTS, behind
from rlhf_jax.runs.claims.finding import Finding, Form, found, over_prompts, over_seeds
from rlhf_jax.runs.claims.results import Results
from rlhf_jax.runs.intervals import Estimate


def bounds(
    claimed: float, asked: BoundConfig, results: Results, config: ClaimsConfig
) -> list[Finding]:
    """A metric after training against a bound: one row.

    The interval is over seeds, and over prompts too where cells know what was reached on each. That
    of a share of answers also covers the number of prompts: it reaches from the lower of two ends
    to the higher, of the bootstrap and of Wilson's interval for one answer a prompt. Without the
    second one, no harmful answer in every seed would be an interval of no width. Further samples of
    a prompt and further seeds are no further prompts: what a model does on those that were not
    asked, they may all do alike.

    Args:
      claimed: the bound.
      asked: what is measured.
      results: of the comparison.
      config: says the statistic.
    """
    runs = list(results.of(asked.run).values())
    metric = results.asked(asked.metric, *runs)
    values = [run.curve[-1][metric] for run in runs]
    crossed = results.of_prompts(metric, runs)
    estimate = over_seeds(values, config) if crossed is None else over_prompts(crossed, config)
    notes = [] if crossed is None else [OVER_PROMPTS]
    prompts = results.prompts
    if asked.share and estimate.low == estimate.low:
        known = [value for value in values if value == value]
        notes.append(f"seeds from {_percent(min(known))} to {_percent(max(known))}")
        if prompts is None:
            notes.append("the number of prompts is not known, and not in the interval")
            if estimate.low == estimate.high:
                # Equal seeds, most likely without a single such answer: no certainty.
                estimate = estimate._replace(low=math.nan, high=math.nan)
        else:
            whole = wilson(sum(known) / len(known), prompts, config.confidence)
            estimate = Estimate(
                estimate.value,
                min(estimate.low, whole[0]),
                max(estimate.high, whole[1]),
                estimate.seeds,
            )
    return [
        found(
            f"{metric} of {asked.run} after training, {asked.side} the bound",
            claimed,
            estimate,
            form=Form(is_share=asked.share),
            behind=behind(results, metric, estimate.seeds),
            note="; ".join(notes),
            side=asked.side,
        )
    ]


def wilson(share: float, number: int, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927, "Probable Inference, the Law of Succession,
    and Statistical Inference", section on the limits of p).

    Args:
      share: observed, from 0 to 1.
      number: of independent answers, at least 1.
      confidence: of the interval, below 1.

    Returns:
      (low, high).

    Raises:
      ValueError: the share is none.
    """
    if not 0 <= share <= 1:
        raise ValueError(
            f"{share:.4g} is no share of answers; give bound.share=false for a metric that is none"
        )
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    scale = 1 + z * z / number
    middle = (share + z * z / (2 * number)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number))
    # At its ends the sum is 0 or 1 but for rounding.
    return middle - half if share > 0 else 0.0, middle + half if share < 1 else 1.0


def _percent(share: float) -> str:
    return Form(is_share=True).text(share)
