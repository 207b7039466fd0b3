"""Whether a metric is good when it is large or when it is small."""

import re
from typing import Literal

Mode = Literal["max", "min"]

_MEANINGS: tuple[tuple[str, Mode | None], ...] = (
    # What is known by its whole name stands before what is known by its kind.
    (r"time/.*|loss/weight|kl/coef|rewards/(rejected|std|group_std)|logps/rejected", None),
    (r"rewards/(ungraded|failed|zero_std_groups).*", "min"),
    (
        r"(.*[/_])?(nll|perplexity|ppl|bpb|bits_per_byte|errors?|error_rate|cross_entropy)"
        r"([/_@].*)?",
        "min",
    ),
    (r"(loss|length|kl)/.*|(.*[/_])?loss", "min"),
    (r"(rewards|accuracy)/.*|logps/chosen|value/explained_variance", "max"),
    (r"(.*[/_])?(accuracy|reward|win_rate|score|f1|bleu|exact_match|pass)([/_@].*)?", "max"),
)
"""Pattern of the name -> what is good; None: it depends on what one wants."""


def better(metric: str) -> Mode | None:
    """Which values of a metric are good.

    Args:
      metric: such as ``rewards/accuracy``.

    Returns:
      "max" or "min" by the metric's meaning (losses, lengths, divergences, perplexities: small;
      rewards, accuracies: large); None where the name does not say it, or it depends on what one
        wants.
    """
    return next(
        (mode for pattern, mode in _MEANINGS if re.fullmatch(pattern, metric.lower())), None
    )
