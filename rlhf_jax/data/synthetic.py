"""Generated tasks for trying the library with nothing downloaded, addressed as a data path.

    synthetic:arithmetic
    synthetic:arithmetic?size=20000&min_operand=10&max_operand=99&noise=0.5&seed=0

`arithmetic` asks for a sum ("12+7=") and wants it in digits ("19"); no column carries unless `carry=true`, which makes the
task one that a model of a million parameters picks up in some hundred steps and then does right on sums it never saw. Read as
text (SFT) the answers are imperfect: a share `noise` of them has one digit wrong, so that a model that imitates them well is
still wrong as often. Read as pairs (reward model, DPO) the right answer is chosen and such a slip rejected. Read as prompts
the right answer is in the column `answer`. The same prompts come in the same order in all three, and all is a function of
the options.
"""

import dataclasses
import random
import urllib.parse
from collections.abc import Iterator
from typing import Any

from rlhf_jax.data.errors import DataError

PREFIX = "synthetic:"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArithmeticTask:
    """Sums of two whole numbers."""

    size: int = 4000
    """Rows. There are 1,980 different sums of two-digit numbers without carry; more rows repeat them with other mistakes."""
    min_operand: int = 0
    max_operand: int = 99
    """Operands are drawn from `min_operand` to `max_operand`, both included."""
    carry: bool = False
    """Also sums in which a column adds up to more than 9."""
    noise: float = 0.5
    """Share of supervised answers that are wrong."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise DataError(f"synthetic:arithmetic needs size of at least 1, got {self.size}")
        if not 0 <= self.min_operand < self.max_operand:
            raise DataError(
                f"synthetic:arithmetic needs 0 <= min_operand < max_operand, got {self.min_operand} and {self.max_operand}"
            )
        if not self.carry and _has_carry(self.min_operand, self.min_operand):
            raise DataError(f"synthetic:arithmetic with min_operand={self.min_operand} needs carry=true")
        if not 0.0 <= self.noise <= 1.0:
            raise DataError(f"synthetic:arithmetic needs noise from 0 to 1, got {self.noise}")


TASKS = {"arithmetic": ArithmeticTask}
_BOOLS = {"true": True, "false": False}


def is_synthetic(path: str) -> bool:
    """Whether a data path names generated data."""
    return path.startswith(PREFIX)


def parse_task(path: str) -> ArithmeticTask:
    """The task named by a path such as "synthetic:arithmetic?noise=0.2".

    Raises:
        DataError: unknown task, unknown option, or a value of the wrong type.
    """
    name, _, query = path.removeprefix(PREFIX).partition("?")
    if name not in TASKS:
        raise DataError(f"synthetic task {name!r} is unknown: known are {', '.join(TASKS)}")
    fields: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(TASKS[name])}
    options: dict[str, Any] = {}
    for key, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
        if key not in fields:
            raise DataError(f"synthetic:{name} has no option {key!r}: options are {', '.join(fields)}")
        try:
            options[key] = _BOOLS[value] if fields[key] is bool else fields[key](value)
        except (ValueError, KeyError):
            raise DataError(f"synthetic:{name} option {key}={value!r} is not a valid {fields[key].__name__}") from None
    return TASKS[name](**options)


def synthetic_rows(path: str, kind: str) -> Iterator[dict[str, Any]]:
    """Rows of a generated task: `prompt`+`completion` (text), `prompt`+`chosen`+`rejected` (pairs), `prompt`+`answer`."""
    task = parse_task(path)
    draw = random.Random(task.seed)
    for _ in range(task.size):
        left, right = _operands(task, draw)
        prompt, answer = f"{left}+{right}=", str(left + right)
        slip = _slip(answer, draw)
        is_wrong = draw.random() < task.noise
        if kind == "text":
            yield {"prompt": prompt, "completion": slip if is_wrong else answer}
        elif kind == "pairs":
            yield {"prompt": prompt, "chosen": answer, "rejected": slip}
        else:
            yield {"prompt": prompt, "answer": answer}


def _operands(task: ArithmeticTask, draw: random.Random) -> tuple[int, int]:
    while True:
        left, right = (draw.randint(task.min_operand, task.max_operand) for _ in range(2))
        if task.carry or not _has_carry(left, right):
            return left, right


def _has_carry(left: int, right: int) -> bool:
    return any(int(a) + int(b) > 9 for a, b in zip(str(left)[::-1], str(right)[::-1], strict=False))


def _slip(answer: str, draw: random.Random) -> str:
    """The answer with one digit wrong, every wrong digit being as likely (no leading zero)."""
    place = draw.randrange(len(answer))
    lowest = "1" if place == 0 and len(answer) > 1 else "0"
    digit = draw.choice([digit for digit in "0123456789" if digit >= lowest and digit != answer[place]])
    return answer[:place] + digit + answer[place + 1 :]
