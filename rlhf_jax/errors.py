"""What a user can mend: one base class, and the exit code of each kind."""

import traceback


class RlhfError(Exception):
    """Something that the user can mend, said in one line. Anything else is a fault of ours."""

    exit_code: int = 1
    """Of the commands (`rlhf-jax --help` lists them)."""


class TrainingError(RlhfError, RuntimeError):
    """Training cannot go on: the loss stays non-finite, or there is nothing to learn from."""

    exit_code = 5


class DivergedError(TrainingError):
    """The loss or the gradients stay non-finite, which lies in what is trained and how: the same
    configuration comes to the same."""


class LostError(RlhfError, RuntimeError):
    """Another process of the run has ended, is silent, or never came: nothing can be done together
    any more.

    Args:
      message: the line that names it.
      exit_code: of this process.
    """

    def __init__(self, message: str, exit_code: int = 6) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class PeerError(RlhfError, RuntimeError):
    """What failed in one process of a run, raised in every one of them at the same place.

    Args:
      message: the line, with the process that it failed in.
      exit_code: of the error there.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def exit_code(error: BaseException) -> int | None:
    """The exit code of an error that is the user's to mend; None for any other error.

    A `ValueError` raised by the library itself, rather than below it, is a refused value: 2 unless
    its class says more.
    """
    if isinstance(error, RlhfError):
        return error.exit_code
    frames = [
        frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    if isinstance(error, ValueError) and frames and frames[-1].startswith("rlhf_jax."):
        refused_by = {"rlhf_jax.data": 3, "rlhf_jax.models": 4}
        return refused_by.get(".".join(frames[-1].split(".")[:2]), 2)
    return 1 if isinstance(error, OSError) else None
