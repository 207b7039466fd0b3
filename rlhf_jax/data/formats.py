"""Column formats: which one a data set has, and its rows as examples of what an algorithm needs.

| format            | columns                                       | text | pairs | unpaired |
|-------------------|-----------------------------------------------|------|-------|----------|
| prompt_completion | `prompt` and `completion`                     | yes  |       |          |
| unpaired          | `prompt`, `completion` and `label` (bool)     |      |       | yes      |
| messages          | `messages`, or `conversations` (ShareGPT)     | yes  |       |          |
| text              | `text`                                        | yes  |       |          |
| preference        | `chosen` and `rejected`, `prompt` if explicit | (*)  | yes   | (**)     |
| tokens            | `input_ids`; `labels`, masks if there         | yes  |       |          |

and prompts are read from prompt_completion, messages (up to the last answer), preference, and
`prompt` alone (verl's rows: a chat list). (*) prompt and chosen. (**) as two rows.

Texts are plain strings or conversations (lists of `{"role", "content"}`, see
`rlhf_jax.data.messages`), with the columns `tools` and `chat_template_kwargs` for the chat
template.

An answer with `weight: 0` (OpenAI), `train: false` or `training: false` (axolotl), `loss: false`
(ms-swift) or `loss_mask: 0` (slime) is context, and not trained on.
"""

import difflib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_jax.data.cells import MESSAGES, like_prompt, plain_text, read_content, whole_conversation
from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.errors import BadRow, DataError
from rlhf_jax.data.kinds import (
    Example,
    JudgedExample,
    PairExample,
    PromptExample,
    TextExample,
    TokenExample,
)
from rlhf_jax.data.messages import ChatOptions, Content, Message, read_chat_options
from rlhf_jax.data.preferences import read_preference
from rlhf_jax.data.unpaired import read_label

REQUIRED: dict[str, tuple[str, ...]] = {
    "prompt_completion": ("prompt", "completion"),
    "unpaired": ("prompt", "completion", "label"),
    "preference": ("chosen", "rejected"),
    "messages": ("messages",),
    "text": ("text",),
    "prompt": ("prompt",),
    "tokens": ("input_ids",),
}
READABLE: dict[str, tuple[str, ...]] = {
    "text": ("prompt_completion", "messages", "preference", "text", "tokens"),
    "pairs": ("preference",),
    "unpaired": ("unpaired", "preference"),
    "prompts": ("prompt_completion", "preference", "messages", "prompt"),
}
"""Formats per kind, the first that fits is taken."""


def rename_columns(columns: Mapping[str, Any], mapping: Mapping[str, str]) -> dict[str, Any]:
    """Applies `{ours: theirs}`; "a.b" reads field b of the object in column a. Missing: omitted,
    and a column of the row that has our name does not stand in for it."""
    taken = {*mapping, *mapping.values()}
    renamed = {key: value for key, value in columns.items() if key not in taken}
    for ours, theirs in mapping.items():
        value: Any = columns
        for part in [theirs] if theirs in columns else theirs.split("."):
            value = value[part] if isinstance(value, Mapping) and part in value else _MISSING
        if value is not _MISSING:
            renamed[ours] = value
    return renamed


_MISSING = object()


def detect_format(
    rows: Sequence[Mapping[str, Any]], kind: str, config: DataConfig, name: str
) -> str:
    """The format that most of the first rows have, of those that the kind can read.

    Raises:
        DataError: no row has the columns needed; the message says which were found.
    """
    if config.format != "auto":
        if config.format not in READABLE[kind]:
            raise DataError(
                f"data.format {config.format!r} does not give {kind}: "
                f"{' or '.join(READABLE[kind])} would"
            )
        readable: tuple[str, ...] = (config.format,)
    else:
        readable = READABLE[kind]
    fits = {form: sum(not _missing(row, form) for row in rows) for form in readable}
    best = max(readable, key=lambda form: fits[form])
    if fits[best] == 0:
        found = ", ".join(Counter(column for row in rows for column in row)) or "none"
        # ids are never what was forgotten
        meant = [form for form in readable if form != "tokens"] or readable
        needed = " or ".join("+".join(REQUIRED[form]) for form in meant)
        raise DataError(
            f"{name} has the columns {found}; {kind} data needs {needed} (map names with "
            f"data.columns){_mapping_hint(meant, found.split(', '))}"
        )
    return best


def _mapping_hint(formats: Sequence[str], found: Sequence[str]) -> str:
    """The mapping that would do, where all that a format needs is there under a like name."""
    for form in formats:
        lacking = [column for column in REQUIRED[form] if column not in found]
        free = [column for column in found if column not in REQUIRED[form]]
        near = {
            column: difflib.get_close_matches(column, free, n=1, cutoff=0.6) for column in lacking
        }
        if lacking and all(near.values()):
            mapping = ", ".join(f"{ours}: {theirs[0]}" for ours, theirs in near.items())
            return f"; did you mean data.columns={{{mapping}}}?"
    return ""


def make_example(columns: Mapping[str, Any], form: str, kind: str, where: str) -> Example:
    """One row as an example.

    Raises:
        BadRow: a column is missing, of a wrong type, null or empty, or no prompt can be found.
    """
    for column in _missing(columns, form):
        raise BadRow(
            "missing column",
            f"column {column!r} is missing (found: {', '.join(columns) or 'none'})",
        )
    if form == "tokens":
        return _token_example(columns, where)
    chat = read_chat_options(columns)
    if kind == "prompts":
        return _prompt_example(columns, form, where, chat)
    if form == "unpaired":
        prompt = read_content(columns, "prompt")
        completion = like_prompt(prompt, read_content(columns, "completion"), "completion")
        return JudgedExample(prompt, completion, read_label(columns), where, chat)
    if form == "preference":
        prompt, chosen, rejected = read_preference(columns)
        if kind == "text":
            return TextExample(prompt, chosen, where, chat)
        return PairExample(prompt, chosen, rejected, _margin(columns), where, chat)
    if form == "prompt_completion":
        prompt = read_content(columns, "prompt")
        completion = like_prompt(prompt, read_content(columns, "completion"), "completion")
        return TextExample(prompt, completion, where, chat)
    if form == "messages":
        column, messages = whole_conversation(columns)
        prompt, completion = _split_conversation(messages, column)
        return TextExample(prompt, completion, where, chat)
    return TextExample(None, plain_text(columns, "text"), where)


def _missing(columns: Mapping[str, Any], form: str) -> list[str]:
    """Columns that the format needs and the row lacks."""
    if form == "messages" and any(column in columns for column in MESSAGES):
        return []
    return [column for column in REQUIRED[form] if column not in columns]


def _prompt_example(
    columns: Mapping[str, Any], form: str, where: str, chat: ChatOptions
) -> PromptExample:
    if form == "preference":
        prompt: Content = read_preference(columns)[0]
    elif form == "messages":
        column, prompt = whole_conversation(columns)
        prompt = prompt[:-1] if prompt[-1]["role"] == "assistant" else prompt
        if not prompt:
            raise BadRow("no prompt", f"column {column!r} holds nothing before the answer")
    else:
        prompt = read_content(columns, "prompt")
    others = {key: value for key, value in columns.items() if key not in ("prompt", *MESSAGES)}
    reward_model = others.get("reward_model")
    if isinstance(reward_model, Mapping) and "ground_truth" in reward_model:
        others.setdefault("ground_truth", reward_model["ground_truth"])
    return PromptExample(prompt, others, where, chat)


def _token_example(columns: Mapping[str, Any], where: str) -> TokenExample:
    """Ids made elsewhere; `labels` (-100: untrained) or masks say what is trained, else all."""
    ids = _numbers(columns, "input_ids")
    if not ids:
        raise BadRow("empty text", "column 'input_ids' is empty")
    trained = [True] * len(ids)
    present = [True] * len(ids)
    for column in ("labels", "completion_mask", "assistant_masks", "attention_mask"):
        if columns.get(column) is None:
            continue
        values = _numbers(columns, column)
        if len(values) != len(ids):
            raise BadRow(
                "wrong type",
                f"column {column!r} has {len(values)} entries for {len(ids)} input_ids",
            )
        if column == "labels":
            if any(label not in (-100, token) for label, token in zip(values, ids, strict=True)):
                raise BadRow(
                    "wrong type",
                    "column 'labels' holds other ids than 'input_ids' (neither shifted nor "
                    "changed)",
                )
            trained = [label != -100 for label in values]
        elif column == "attention_mask":
            present = [bool(value) for value in values]
        else:
            trained = [flag and bool(value) for flag, value in zip(trained, values, strict=True)]
    kept = [index for index, flag in enumerate(present) if flag]
    if not any(trained[index] for index in kept):
        raise BadRow("no answer", "no token of 'input_ids' is to be trained on")
    return TokenExample([ids[index] for index in kept], [trained[index] for index in kept], where)


def _numbers(columns: Mapping[str, Any], column: str) -> list[int]:
    values = columns[column]
    if not isinstance(values, list | tuple) or any(
        type(value) not in (int, bool) for value in values
    ):
        raise BadRow("wrong type", f"column {column!r} is not a list of whole numbers")
    return [int(value) for value in values]


def _margin(columns: Mapping[str, Any]) -> float | None:
    margin = columns.get("margin")
    if margin is None or margin == "":  # an empty CSV field
        return None
    if isinstance(margin, str):
        return _number(margin)
    if isinstance(margin, bool) or not isinstance(margin, int | float):
        raise BadRow(
            "wrong type", f"column 'margin' is {type(margin).__name__}, a number is needed"
        )
    return float(margin)


def _number(text: str) -> float:
    """CSV has no types: its numbers are text."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadRow("wrong type", f"column 'margin' is {text[:40]!r}, a number is needed")
    return value


def _split_conversation(
    messages: list[Message], column: str
) -> tuple[list[Message], list[Message]]:
    """The prompt is everything before the first answer; of the rest, the answers are trained on."""
    first = next(
        (index for index, message in enumerate(messages) if message["role"] == "assistant"), None
    )
    if first is None or messages[-1]["role"] != "assistant":
        raise BadRow("no answer", f"column {column!r} does not end with an assistant message")
    if first == 0:
        raise BadRow("no prompt", f"column {column!r} starts with an answer")
    return messages[:first], messages[first:]
