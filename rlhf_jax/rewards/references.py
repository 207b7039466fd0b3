"""The solution that a row brings along: what it is, and which program a completion makes."""

import json
import textwrap
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from rlhf_jax.rewards.answers import content_of
from rlhf_jax.rewards.blocks import code_of, defines, parsed, without_tail

COLUMNS = (
    "canonical_solution",
    "reference_solution",
    "gold_standard_solution",
    "solutions",
    "solution",
    "code",
)
"""Columns that may hold a row's own solutions; only those that are Python count."""
_PYTHON3 = (3, "3", "python3", "python")
"""How CodeContests names the language."""
_NAMES = ("task_id", "question_id", "problem_id", "id", "name", "url", "index")


def program_of(completion: Any, prompt: Any, entry: str, wanted: Collection[str] = ()) -> str:
    """The program that is graded.

    Args:
      completion: text or messages.
      prompt: of the row. Where the row names an entry point and the prompt is the beginning of a
        program that defines it (HumanEval), a completion may go on where it ends, or bring the
        whole function.
      entry: the entry point; "" when the row names none.
      wanted: further names that the row's tests use.
    """
    code = code_of(completion, wanted={entry.partition(".")[0].partition("(")[0], *wanted} - {""})
    head = _head(prompt, entry)
    if head is None:
        return code
    if defines(code, entry):
        # The prompt's own helpers and imports come first, unless the code has to.
        return code if "__future__" in code else f"{head}\n\n{code}"
    text = without_tail(content_of(completion).rpartition("</think>")[2])
    for rest in (text, textwrap.indent(code, "    ")):
        if parsed(head + rest) is not None:
            return head + rest
        if parsed(f"{head}\n{rest}") is not None:
            return f"{head}\n{rest}"
    return code


def references_of(row: Mapping[str, Any], column: str | None) -> list[str]:
    """The Python solutions that a row brings along.

    Args:
      row: column -> value.
      column: the one to look at; None: those of `COLUMNS` that there are.
    """
    names = COLUMNS if column is None else (column,)
    return [
        text
        for name in names
        for text in _texts(row.get(name))
        if text.strip() and _is_program(text)
    ]


def name_of(row: Mapping[str, Any]) -> str:
    """What a row is called, for messages."""
    for name in _NAMES:
        if row.get(name) is not None:
            return f"{name} {row[name]!r:.80}"
    return "a row without a name (task_id, question_id, id)"


def _head(prompt: Any, entry: str) -> str | None:
    if not entry or prompt is None:
        return None
    text = prompt if isinstance(prompt, str) else content_of(prompt)
    for code in (text, code_of(text)):
        if defines(code, entry):
            return code
    return None


def _is_program(text: str) -> bool:
    code = code_of(text)
    return parsed(code) is not None or parsed(f"def f():\n{text}") is not None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if value.lstrip()[:1] in ("[", "{"):
            try:
                yield from _texts(json.loads(value))
                return
            except (ValueError, RecursionError):
                pass  # a program that starts with a bracket
        yield value
    elif isinstance(value, Mapping):
        solutions = value.get("solution") or value.get("code")
        languages = value.get("language")
        if isinstance(solutions, str):
            solutions = [solutions]
            languages = [languages]
        for position, text in enumerate(solutions or ()):
            language = languages[position] if languages else None
            if language is None or str(language).lower() in map(str, _PYTHON3):
                yield text
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
