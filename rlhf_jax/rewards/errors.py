"""Errors that end a run because of its rewards."""


class RewardError(ValueError):
    """A reward function answers in a form that holds no grades, which no other completion mends."""


class RewardProcessError(RuntimeError):
    """The processes that grade cannot be kept alive."""
