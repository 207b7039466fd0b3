"""Sorting: "dbac=" wants "abcd", "31 4 15=" wants "4 15 31"; mistakes swap two neighbours."""

import dataclasses
import random
import string

from rlhf_jax.data.errors import DataError
from rlhf_jax.data.synthetic.problem import Problem, check_options
from rlhf_jax.fields import documented

ITEMS = ("letters", "numbers")


@documented
@dataclasses.dataclass(frozen=True, kw_only=True)
class SortingTask:
    """Put letters or numbers in order."""

    size: int = 4000
    """Rows."""
    length: int = 5
    """Items in a problem."""
    min_length: int = 0
    """Draw the number of items from this to `length`; 0: always `length`."""
    items: str = "letters"
    """letters: of the alphabet, written without spaces; numbers: from 0 to `max_number`."""
    max_number: int = 99
    descending: bool = False
    """Largest first."""
    noise: float = 0.5
    """Share of supervised answers that are wrong."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_options("sorting", size=self.size, noise=self.noise)
        if self.length < 2:
            raise DataError(f"synthetic:sorting needs length of at least 2, got {self.length}")
        if self.min_length and not 2 <= self.min_length <= self.length:
            raise DataError(
                f"synthetic:sorting needs min_length from 2 to length={self.length}, or 0, got "
                f"{self.min_length}"
            )
        if self.items not in ITEMS:
            raise DataError(f"synthetic:sorting needs items={' or '.join(ITEMS)}, got {self.items}")
        if self.max_number < 1:
            raise DataError(
                f"synthetic:sorting needs max_number of at least 1, got {self.max_number}"
            )

    def problem(self, draw: random.Random) -> Problem:
        """The next problem."""
        length = draw.randint(self.min_length, self.length) if self.min_length else self.length
        values: list[int] = []
        while len(set(values)) < 2:
            values = [
                draw.randint(0, 25 if self.items == "letters" else self.max_number)
                for _ in range(length)
            ]
        right = sorted(values, reverse=self.descending)
        place = draw.choice(
            [place for place in range(length - 1) if right[place] != right[place + 1]]
        )
        wrong = [*right[:place], right[place + 1], right[place], *right[place + 2 :]]
        return Problem(f"{self._text(values)}=", self._text(right), self._text(wrong))

    def _text(self, values: list[int]) -> str:
        if self.items == "letters":
            return "".join(string.ascii_lowercase[value] for value in values)
        return " ".join(map(str, values))
