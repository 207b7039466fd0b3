"""Errors of a run that has begun."""


class TrainingError(RuntimeError):
    """Training cannot go on: the loss stays non-finite, or there is nothing to learn from."""
