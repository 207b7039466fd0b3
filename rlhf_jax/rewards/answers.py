"""Text of completions, final answers in them, and the answers that the data holds."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from rlhf_jax.rewards.extraction import (
    after_reasoning,
    final_answer,
    marked_answer,
    unmarked_answer,
)
from rlhf_jax.rewards.quantities import as_number
from rlhf_jax.rewards.typography import LONGEST, clean, words_of

__all__ = [
    "OPENED_COLUMN",
    "TARGET_COLUMNS",
    "Completion",
    "after_reasoning",
    "answer_of",
    "as_number",
    "content_of",
    "final_answer",
    "marked_answer",
    "normal_form",
    "opens_reasoning",
    "require_columns",
    "target_of",
    "targets_of",
    "unmarked_answer",
]

Completion: TypeAlias = str | Sequence[Mapping[str, Any]]
"""Text, or the messages of a conversational completion."""

TARGET_COLUMNS = ("answer", "solution", "ground_truth", "reward_model.ground_truth", "reward_model")
"""Columns that may hold the right answer, the first present one is read."""

OPENED_COLUMN = "prompt_opens_think"
"""Column that a run adds when the rendered prompt of a row ends in ``<think>``: only then is it
there. bool."""

_OPENED = re.compile(r"<think>\s*\Z")
_ARITHMETIC = re.compile(r"[0-9\s.,+*/()−×÷·$-]+")


def require_columns(
    who_needs: str, names: Sequence[str], columns: Mapping[str, Sequence[Any]]
) -> None:
    """Refuses data that lacks a column which a reward reads.

    Args:
      who_needs: how the message begins, such as "reward countdown needs".
      names: of the columns.
      columns: of the data.

    Raises:
      ValueError: one is missing.
    """
    for name in names:
        if name not in columns:
            present = ", ".join(sorted(columns)) or "none"
            raise ValueError(
                f"{who_needs} a column {name!r}, the data has {present}: rename it with "
                "data.columns"
            )


def content_of(completion: Completion) -> str:
    """The text of a completion: itself, or what the last message of a conversational one says."""
    if isinstance(completion, str):
        return completion
    if not completion:
        return ""
    content = completion[-1].get("content")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or ())


def opens_reasoning(
    prompts: Sequence[Any] | None, columns: Mapping[str, Sequence[Any]], index: int
) -> bool:
    """Whether the completion of a row starts inside a block ``<think>`` that its prompt opened.

    Args:
      prompts: as a reward function gets them. Text is looked at; of messages the last, when it is
      the assistant's.
      columns: data columns; `OPENED_COLUMN` says what the chat template did, which messages do not
      show.
      index: the row.
    """
    if OPENED_COLUMN in columns:
        return bool(columns[OPENED_COLUMN][index])
    prompt = prompts[index] if prompts is not None else ""
    if not isinstance(prompt, str):
        prompt = content_of(prompt) if prompt and prompt[-1].get("role") == "assistant" else ""
    return _OPENED.search(prompt[-40:]) is not None


def answer_of(completion: Completion, *, opened: bool = False) -> str | None:
    """The final answer in a normal form: equal answers are equal strings (for majority votes).

    The marked answer (`marked_answer`), or what stands out in a text without one
    (`unmarked_answer`). Numbers lose thousands separators, units and trailing zeros ("1,200.0 km"
    -> "1200"), fractions are reduced.

    Args:
      completion: text or messages.
      opened: the prompt ends in ``<think>``: a completion that does not close it has no answer.

    Returns:
      The normal form, or None when there is no answer.
    """
    answer = final_answer(content_of(completion), opened=opened)
    return normal_form(answer) or None if answer is not None else None


def normal_form(answer: str) -> str:
    """An answer without typography: a reduced number, lower-case words, or a formula as it is.

    Of "7 - 3 = 4" it is "4". Nothing that changes the value is dropped: "2 million" is "2000000",
    "10!" stays "10!".
    """
    number = as_number(answer)
    if number is None and len(answer) <= LONGEST and "=" in answer:
        *steps, last = clean(answer).split("=")
        if all(
            _ARITHMETIC.fullmatch(step) and as_number(step) in (None, as_number(last))
            for step in steps
        ):
            number = as_number(last)
    if number is not None:
        return str(number)
    text = " ".join(clean(answer).split())
    return text.lower() if _is_prose(text) else text


def _is_prose(text: str) -> bool:
    r"""Whether a text is words, whose case says nothing; letters and formulas keep theirs."""
    return bool(words_of(text)) and not re.search(r"[\\^_=]", re.sub(r"\\text(?![a-z])", "", text))


def targets_of(columns: Mapping[str, Sequence[Any]], index: int) -> tuple[str, ...] | None:
    """The right answers of one row.

    Args:
      columns: data columns; the first present of `TARGET_COLUMNS` is read. `reward_model` holds
      verl's
        ``{"ground_truth": ..}``. A list means that each of its answers is right. Of "reasoning ####
        18" only "18" counts.
      index: the row.

    Returns:
      The answers, or None when the row has none.

    Raises:
      ValueError: no such column.
    """
    for name in TARGET_COLUMNS:
        if name in columns:
            value = columns[name][index]
            break
    else:
        raise ValueError(
            "the data has no column with the right answer: "
            f"{', '.join(sorted(columns)) or 'no columns'}; "
            f"needed is one of {', '.join(TARGET_COLUMNS)} (rename it with data.columns)"
        )
    if isinstance(value, Mapping):
        value = value.get("ground_truth")
    if value is None:
        return None
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(str(v).rpartition("####")[2].strip() for v in values) or None


def target_of(columns: Mapping[str, Sequence[Any]], index: int) -> str | None:
    """The (first) right answer of one row; see `targets_of`."""
    targets = targets_of(columns, index)
    return targets[0] if targets else None
