"""Errors of a run that has begun."""

import logging
from collections.abc import Callable

from rlhf_jax.rewards.errors import RewardError, RewardProcessError

_log = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """Training cannot go on: the loss stays non-finite, or there is nothing to learn from."""


ENDING = (TrainingError, RewardError, RewardProcessError)
"""What ends a run although nothing is wrong with its state, which is saved first."""


def save_first(save: Callable[[], None]) -> None:
    """Saves before an error ends the run. A save that fails (the disk is full) must not take the
    place of that error."""
    try:
        save()
    except Exception as failed:
        _log.warning(
            "what was learnt since the last checkpoint is lost: %s", " ".join(str(failed).split())
        )
