"""Generated tasks for trying the library with nothing downloaded, addressed as a data path.

    synthetic:arithmetic
    synthetic:arithmetic?size=4000&max_operand=49&noise=0.4&seed=0

`arithmetic` asks for a sum ("12+7=") and wants it in digits ("19"). Read as text (SFT) the answers are imperfect: a share
`noise` of them is a plausible mistake, so that a model that imitates them well is still often wrong. Read as pairs (reward
model, DPO) the right answer is chosen and a plausible mistake rejected. Read as prompts the right answer is in the column
`answer`. The same prompts come in the same order in all three, and all is a function of the options.
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

    size: int = 2000
    """Rows."""
    max_operand: int = 49
    """Operands are drawn from 0 to this, both included."""
    noise: float = 0.4
    """Share of supervised answers that are wrong."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1 or self.max_operand < 1:
            raise DataError(f"synthetic:arithmetic needs size and max_operand of at least 1, got {self.size}, {self.max_operand}")
        if not 0.0 <= self.noise <= 1.0:
            raise DataError(f"synthetic:arithmetic needs noise from 0 to 1, got {self.noise}")


TASKS = {"arithmetic": ArithmeticTask}


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
        convert = fields[key]
        try:
            options[key] = convert(value)
        except ValueError:
            raise DataError(f"synthetic:{name} option {key}={value!r} is not a valid {convert.__name__}") from None
    return TASKS[name](**options)


def synthetic_rows(path: str, kind: str) -> Iterator[dict[str, Any]]:
    """Rows of a generated task: `prompt`+`completion` (text), `prompt`+`chosen`+`rejected` (pairs), `prompt`+`answer`."""
    task = parse_task(path)
    draw = random.Random(task.seed)
    for _ in range(task.size):
        left, right = draw.randint(0, task.max_operand), draw.randint(0, task.max_operand)
        prompt, answer, mistake = f"{left}+{right}=", str(left + right), _mistake(left, right, draw)
        is_wrong = draw.random() < task.noise
        if kind == "text":
            yield {"prompt": prompt, "completion": mistake if is_wrong else answer}
        elif kind == "pairs":
            yield {"prompt": prompt, "chosen": answer, "rejected": mistake}
        else:
            yield {"prompt": prompt, "answer": answer}


def _mistake(left: int, right: int, draw: random.Random) -> str:
    """A wrong sum of the kind people write: one off, ten off (a lost carry), or the difference."""
    total = left + right
    wrong = {total + 1, abs(total - 1), total + 10, abs(total - 10), abs(left - right)} - {total}
    return str(draw.choice(sorted(wrong)))
