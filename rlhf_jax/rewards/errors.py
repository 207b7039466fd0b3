"""Errors that end a run because of its rewards."""

from rlhf_jax.errors import RlhfError


class RewardError(RlhfError, ValueError):
    """A reward function answers in a form that holds no grades, which no other completion mends."""

    exit_code = 5


class RewardProcessError(RlhfError, RuntimeError):
    """The processes that grade cannot be kept alive."""

    exit_code = 5
