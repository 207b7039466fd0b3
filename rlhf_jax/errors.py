"""What a user can mend: one base class, and the exit code of each kind."""

from typing import ClassVar


class RlhfError(Exception):
    """Something that the user can mend, said in one line. Anything else is a fault of ours."""

    exit_code: ClassVar[int] = 1
    """Of the commands (`rlhf-jax --help` lists them)."""


class TrainingError(RlhfError, RuntimeError):
    """Training cannot go on: the loss stays non-finite, or there is nothing to learn from."""

    exit_code = 5
