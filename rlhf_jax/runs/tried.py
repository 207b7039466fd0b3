"""What can be asked of a user's own functions before data and model are read: a mistake in their
names must not cost the minutes that those take."""

from rlhf_jax.algorithms import try_functions
from rlhf_jax.config import Config
from rlhf_jax.rewards.loading import check_name
from rlhf_jax.rewards.registry import MODEL


def try_own(config: Config) -> None:
    """Tries those of the algorithm, and looks for those that give rewards.

    The latter are imported later, in processes of their own.

    Raises:
      ValueError: in one line, why one of them cannot be used.
    """
    try_functions(config.resolved_algorithm)
    for reward in config.rewards:
        if reward.function != MODEL:
            check_name(reward)
