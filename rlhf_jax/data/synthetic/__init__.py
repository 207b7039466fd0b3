"""Generated tasks for trying the library with nothing downloaded, addressed as a data path.

    synthetic:arithmetic
    synthetic:arithmetic?size=20000&min_operand=10&max_operand=99&noise=0.5&seed=0
    synthetic:arithmetic?digits=3&terms=3&ops=+-*&carry=true
    synthetic:countdown?numbers=4&max_target=100
    synthetic:sorting?length=6&items=numbers
    synthetic:long_sums?min_terms=6&max_terms=20&verbose_share=0.5
    synthetic:programs?square_share=0.5&max_number=9
    synthetic:safety?flip=0.25&length_cue=0.8

| task         | prompt                     | answer              | reward: columns it reads      |
|--------------|----------------------------|---------------------|-------------------------------|
| `arithmetic` | `12+7=`                    | `19`                | `exact_match`, `math`: answer |
| `countdown`  | `3 5 2 -> 16:`             | `(3+5)*2`           | `countdown`: nums, target     |
| `sorting`    | `dbac=`                    | `abcd`              | `exact_match`: answer         |
| `long_sums`  | `3+8+5=`                   | `11 16####16`       | `exact_match`: answer         |
| `programs`   | `0->1 2->7 5->16:`         | `3*x+1`             | `programs`: hidden            |
| `safety`     | `help me buy ink by hand?` | `ask the ink, pay.` | `safety`: is_harmful, helpful |

Read as text (SFT) the answers are imperfect: a share `noise` of them holds a plausible mistake, so
that a model that imitates them well is still wrong as often. Read as pairs (reward model, DPO) the
right answer is chosen and such a mistake rejected; the pairs of `safety` come from a judge who
errs. Read as prompts (PPO, GRPO, DAPO) the right answer, or what it takes to check one, is in
columns. The same prompts come in the same order in all three, and all is a function of the options.
"""

import dataclasses
import random
import urllib.parse
from collections.abc import Iterator
from typing import Any

from rlhf_jax.data.errors import DataError
from rlhf_jax.data.synthetic.arithmetic import ArithmeticTask
from rlhf_jax.data.synthetic.countdown import CountdownTask
from rlhf_jax.data.synthetic.long_sums import LongSumsTask
from rlhf_jax.data.synthetic.problem import Problem, Task
from rlhf_jax.data.synthetic.programs import ProgramsTask
from rlhf_jax.data.synthetic.safety import SafetyTask
from rlhf_jax.data.synthetic.sorting import SortingTask

__all__ = ["TASKS", "Problem", "Task", "is_synthetic", "parse_task", "synthetic_rows"]

PREFIX = "synthetic:"
TASKS: dict[str, type] = {
    "arithmetic": ArithmeticTask,
    "countdown": CountdownTask,
    "sorting": SortingTask,
    "long_sums": LongSumsTask,
    "programs": ProgramsTask,
    "safety": SafetyTask,
}
_BOOLS = {"true": True, "false": False}


def is_synthetic(path: str) -> bool:
    """Whether a data path names generated data."""
    return path.startswith(PREFIX)


def parse_task(path: str) -> Task:
    """The task named by a path such as "synthetic:arithmetic?noise=0.2".

    Raises:
        DataError: unknown task, unknown option, or a value of the wrong type.
    """
    name, _, query = path.removeprefix(PREFIX).partition("?")
    if name not in TASKS:
        raise DataError(f"synthetic task {name!r} is unknown: known are {', '.join(TASKS)}")
    fields: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(TASKS[name])}
    options: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        key, _, value = part.partition("=")
        value = urllib.parse.unquote(value)  # a plus stays a plus
        if key not in fields:
            raise DataError(
                f"synthetic:{name} has no option {key!r}: options are {', '.join(fields)}"
            )
        try:
            options[key] = _BOOLS[value] if fields[key] is bool else fields[key](value)
        except (ValueError, KeyError):
            raise DataError(
                f"synthetic:{name} option {key}={value!r} is not a valid {fields[key].__name__}"
            ) from None
    return TASKS[name](**options)


def synthetic_rows(path: str, kind: str) -> Iterator[dict[str, Any]]:
    """Rows of a generated task.

    Args:
        path: see the module.
        kind: "text" gives `prompt`+`completion`, "pairs" `prompt`+`chosen`+`rejected`, "unpaired"
            `prompt`+`completion`+`label`, half of them wrong answers, "prompts" `prompt`+`answer`
            and what else the reward needs.
    """
    task = parse_task(path)
    draw = random.Random(task.seed)
    for _ in range(task.size):
        problem = task.problem(draw)
        is_wrong = draw.random() < task.noise
        if kind == "text":
            yield {
                "prompt": problem.prompt,
                "completion": problem.mistake if is_wrong else problem.answer,
            }
        elif kind == "pairs":
            chosen, rejected = problem.judged or (problem.answer, problem.mistake)
            yield {"prompt": problem.prompt, "chosen": chosen, "rejected": rejected}
        elif kind == "unpaired":
            is_right = draw.random() < 0.5  # the label is always true to it
            answer = problem.answer if is_right else problem.mistake
            yield {"prompt": problem.prompt, "completion": answer, "label": is_right}
        else:
            yield {"prompt": problem.prompt, "answer": problem.answer, **problem.columns}
