"""What every generated task has."""

import random
from typing import Any, NamedTuple, Protocol

from rlhf_jax.data.errors import DataError

MAX_TRIES = 10_000
"""Draws for one problem, before the options count as impossible."""


class Problem(NamedTuple):
    """A question with a right answer and a plausible wrong one."""

    prompt: str
    answer: str
    mistake: str
    columns: dict[str, Any] = {}
    """What a reward needs beside the answer."""
    judged: tuple[str, str] | None = None
    """(chosen, rejected) as a judge who errs sees them, for pairs; None: answer and mistake."""


class Task(Protocol):
    """A frozen dataclass of options that draws problems."""

    @property
    def size(self) -> int:
        """Rows."""

    @property
    def noise(self) -> float:
        """Share of supervised answers that are mistakes."""

    @property
    def seed(self) -> int:
        """Of all draws."""

    def problem(self, draw: random.Random) -> Problem:
        """The next problem."""


def check_options(name: str, *, size: int, noise: float) -> None:
    """Checks the options that every task has."""
    if size < 1:
        raise DataError(f"synthetic:{name} needs size of at least 1, got {size}")
    check_share(name, "noise", noise)


def check_share(name: str, option: str, share: float) -> None:
    """Checks an option that is a share."""
    if not 0.0 <= share <= 1.0:
        raise DataError(f"synthetic:{name} needs {option} from 0 to 1, got {share}")


def check_operators(name: str, ops: str, known: str) -> None:
    """Checks that `ops` lists some of the known operators, each once."""
    if not ops or set(ops) - set(known) or len(set(ops)) < len(ops):
        raise DataError(f"synthetic:{name} needs ops out of {known}, each once, got {ops!r}")
