"""Checks of what grades and measures completions, which whole runs and measurements share."""

from collections.abc import Sequence

from rlhf_jax.config.errors import did_you_mean
from rlhf_jax.config.sections import EvaluationConfig
from rlhf_jax.rewards.config import RewardConfig
from rlhf_jax.rewards.judging import make_judge
from rlhf_jax.rollout.config import RolloutConfig

TAKEN_LABELS = frozenset(
    "mean std ungraded group_std zero_std_groups overlong_penalty greedy sampled chosen rejected "
    "margin accuracy failed "
    "ungraded_sampled failed_sampled step split sample kept trained_step generation_batch "
    "reward prompt completion prompt_index tokens truncated".split()
)
"""Names that a reward cannot have: metrics `rewards/NAME` and columns of the completion files."""


def check_rewards(rewards: Sequence[RewardConfig]) -> None:
    """Refuses rewards that share a name, or whose name is that of a metric or column.

    Args:
        rewards: all of a run.

    Raises:
        ValueError: in one line.
    """
    labels = [reward.label for reward in rewards]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ValueError(
            f"rewards: {twice!r} names two of them; give each its own name, for example "
            f"name={twice}_2"
        )
    taken = next((label for label in labels if label in TAKEN_LABELS), None)
    if taken is not None:
        raise ValueError(
            f"rewards: the name {taken!r} is taken by a metric or column; give another one "
            "with name="
        )


def check_judges(
    key: str, named: str | Sequence[str] | None, rewards: Sequence[RewardConfig]
) -> None:
    """Refuses names of rewards that say right or wrong which are no rewards, stand twice, or cannot
    say it.

    Args:
        key: where they stand, for the error.
        named: one name, several, or None.
        rewards: all of the run.

    Raises:
        ValueError: in one line.
    """
    names = [named] if isinstance(named, str) else list(named or ())
    labels = {reward.label: reward for reward in rewards}
    if named is not None and not names:
        raise ValueError(
            f"{key}=[] names nothing; leave it null, or name one of {', '.join(labels)}"
        )
    for name in names:
        if name not in labels:
            raise ValueError(
                f"{key}={name!r} is not among the rewards, which are "
                f"{', '.join(labels)}{did_you_mean(name, labels)}"
            )
        if names.count(name) > 1:
            raise ValueError(f"{key}: {name!r} stands there twice")
        if labels[name].function == "model" and len(names) > 1:
            raise ValueError(
                f"{key}: {name!r} is a reward model, which grades everything: name it alone, or "
                "leave it out"
            )


def check_right_and_wrong(
    named: str | Sequence[str] | None, rewards: Sequence[RewardConfig]
) -> None:
    """Refuses to retire prompts by a reward model, whose scores say neither right nor wrong.

    Args:
        named: `algorithm.accuracy_reward`.
        rewards: all of the run.

    Raises:
        ValueError: in one line.
    """
    if not make_judge(rewards, named).says:
        raise ValueError(
            "algorithm.retire_pass_rate needs a reward that says right or wrong, and a reward "
            "model's score does not: name a verifier in algorithm.accuracy_reward, or leave "
            "retire_pass_rate out"
        )


def check_whole_distribution(evaluation: EvaluationConfig, rollout: RolloutConfig) -> None:
    """Refuses a KL of samples of which some tokens cannot come: their mean log ratio is not the KL.

    Args:
        evaluation: whether a reference is compared with.
        rollout: what samples are drawn from, where the evaluation does not say it.

    Raises:
        ValueError: in one line.
    """
    if evaluation.reference is None:
        return
    top_p = ("evaluation.top_p", evaluation.top_p)
    if evaluation.top_p is None:
        top_p = ("rollout.top_p", rollout.top_p)
    cuts = ((*top_p, 1.0), ("rollout.top_k", rollout.top_k, 0), ("rollout.min_p", rollout.min_p, 0))
    for key, value, off in cuts:
        if value != off:
            raise ValueError(
                f"evaluation.reference needs samples of the whole distribution, and {key}={value} "
                f"cuts it: set {key}={off:g}, or leave the reference out"
            )
