"""Column formats: which one a data set has, and its rows as examples of what an algorithm needs.

| format            | columns                                         | text | pairs | prompts |
|-------------------|-------------------------------------------------|------|-------|---------|
| prompt_completion | `prompt` and `completion`                       | yes  |       | yes     |
| messages          | `messages`                                      | yes  |       | yes (*) |
| text              | `text`                                          | yes  |       |         |
| preference        | `chosen` and `rejected`, `prompt` if explicit   | yes (**) | yes | yes   |
| prompt            | `prompt` (verl's rows: a chat list)             |      |       | yes     |

Texts are plain strings or conversations (lists of `{"role", "content"}`). (*) up to the last answer. (**) prompt and chosen.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.errors import BadRow, DataError

Kind: TypeAlias = Literal["text", "pairs", "prompts"]
Message: TypeAlias = dict[str, Any]
Content: TypeAlias = str | list[Message]
"""A plain text or a conversation."""

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
"""Turn marks of hh-rlhf transcripts."""


class TextExample(NamedTuple):
    """Something to imitate. `prompt` is None for a bare `text`, all of which is trained on."""

    prompt: Content | None
    completion: Content
    where: str


class PairExample(NamedTuple):
    """A prompt with a better and a worse completion."""

    prompt: Content
    chosen: Content
    rejected: Content
    margin: float | None
    where: str


class PromptExample(NamedTuple):
    """A prompt, with the other columns of its row for reward functions."""

    prompt: Content
    columns: dict[str, Any]
    where: str


Example: TypeAlias = TextExample | PairExample | PromptExample

REQUIRED: dict[str, tuple[str, ...]] = {
    "prompt_completion": ("prompt", "completion"),
    "preference": ("chosen", "rejected"),
    "messages": ("messages",),
    "text": ("text",),
    "prompt": ("prompt",),
}
READABLE: dict[str, tuple[str, ...]] = {
    "text": ("prompt_completion", "messages", "preference", "text"),
    "pairs": ("preference",),
    "prompts": ("prompt_completion", "preference", "messages", "prompt"),
}
"""Formats per kind, the first that fits is taken."""


def rename_columns(columns: Mapping[str, Any], mapping: Mapping[str, str]) -> dict[str, Any]:
    """Applies `{ours: theirs}`; "a.b" reads the field b of the object in column a. Missing ones are left out."""
    renamed = {key: value for key, value in columns.items() if key not in mapping.values()}
    for ours, theirs in mapping.items():
        value: Any = columns
        for part in [theirs] if theirs in columns else theirs.split("."):
            value = value[part] if isinstance(value, Mapping) and part in value else _MISSING
        if value is not _MISSING:
            renamed[ours] = value
    return renamed


_MISSING = object()


def detect_format(rows: Sequence[Mapping[str, Any]], kind: str, config: DataConfig, name: str) -> str:
    """The format that most of the first rows have, of those that the kind can read.

    Raises:
        DataError: no row has the columns needed; the message says which were found.
    """
    if config.format != "auto":
        if config.format not in READABLE[kind]:
            raise DataError(f"data.format {config.format!r} does not give {kind}: {' or '.join(READABLE[kind])} would")
        readable: tuple[str, ...] = (config.format,)
    else:
        readable = READABLE[kind]
    fits = {form: sum(all(column in row for column in REQUIRED[form]) for row in rows) for form in readable}
    best = max(readable, key=lambda form: fits[form])
    if fits[best] == 0:
        found = ", ".join(Counter(column for row in rows for column in row)) or "none"
        needed = " or ".join("+".join(REQUIRED[form]) for form in readable)
        raise DataError(f"{name} has the columns {found}; {kind} data needs {needed} (map names with data.columns)")
    return best


def make_example(columns: Mapping[str, Any], form: str, kind: str, where: str) -> Example:
    """One row as an example.

    Raises:
        BadRow: a column is missing, of a wrong type, null or empty, or no prompt can be found.
    """
    for column in REQUIRED[form]:
        if column not in columns:
            raise BadRow("missing column", f"column {column!r} is missing (found: {', '.join(columns) or 'none'})")
    if kind == "prompts":
        return _prompt_example(columns, form, where)
    if form == "preference":
        prompt, chosen, rejected = _preference(columns)
        if kind == "text":
            return TextExample(prompt, chosen, where)
        return PairExample(prompt, chosen, rejected, _margin(columns), where)
    if form == "prompt_completion":
        prompt = _content(columns, "prompt")
        return TextExample(prompt, _completion(prompt, _content(columns, "completion"), "completion"), where)
    if form == "messages":
        prompt, completion = _split_conversation(_conversation(columns, "messages"))
        return TextExample(prompt, completion, where)
    return TextExample(None, _plain(columns, "text"), where)


def _prompt_example(columns: Mapping[str, Any], form: str, where: str) -> PromptExample:
    if form == "preference":
        prompt: Content = _preference(columns)[0]
    elif form == "messages":
        prompt = _conversation(columns, "messages")
        prompt = prompt[:-1] if prompt[-1]["role"] == "assistant" else prompt
        if not prompt:
            raise BadRow("no prompt", "column 'messages' holds nothing before the answer")
    else:
        prompt = _content(columns, "prompt")
    others = {key: value for key, value in columns.items() if key not in ("prompt", "messages")}
    reward_model = others.get("reward_model")
    if isinstance(reward_model, Mapping) and "ground_truth" in reward_model:
        others.setdefault("ground_truth", reward_model["ground_truth"])
    return PromptExample(prompt, others, where)


def _margin(columns: Mapping[str, Any]) -> float | None:
    margin = columns.get("margin")
    if margin is None or margin == "":  # an empty CSV field
        return None
    if isinstance(margin, str):
        return _number(margin)
    if isinstance(margin, bool) or not isinstance(margin, int | float):
        raise BadRow("wrong type", f"column 'margin' is {type(margin).__name__}, a number is needed")
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


def _content(columns: Mapping[str, Any], column: str) -> Content:
    value = columns[column]
    if isinstance(value, list | tuple):
        return _conversation(columns, column)
    if value is not None and not isinstance(value, str):
        raise BadRow("wrong type", f"column {column!r} is {type(value).__name__}, text or a list of messages is needed")
    return _plain(columns, column)


def _plain(columns: Mapping[str, Any], column: str) -> str:
    value = columns[column]
    if value is None:
        raise BadRow("null", f"column {column!r} is null")
    if not isinstance(value, str):
        raise BadRow("wrong type", f"column {column!r} is {type(value).__name__}, text is needed")
    if not value.strip():
        raise BadRow("empty text", f"column {column!r} is empty")
    return _valid_text(value, f"column {column!r}")


def _valid_text(text: str, where: str) -> str:
    """JSON can spell half a surrogate pair ("\\ud83d"), which is no Unicode text and has no bytes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRow("invalid text", f"{where} holds a lone surrogate at character {error.start}") from None
    return text


def _conversation(columns: Mapping[str, Any], column: str) -> list[Message]:
    value = columns[column]
    if value is None:
        raise BadRow("null", f"column {column!r} is null")
    if not isinstance(value, list | tuple):
        raise BadRow("wrong type", f"column {column!r} is {type(value).__name__}, a list of messages is needed")
    if not value:
        raise BadRow("empty text", f"column {column!r} is an empty list")
    return [_message(message, f"column {column!r}, message {number}") for number, message in enumerate(value, start=1)]


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise BadRow("wrong type", f"{where} is not an object with 'role' and 'content'")
    content = message.get("content")
    if isinstance(content, list):
        if any(not isinstance(part, Mapping) or part.get("type") != "text" for part in content):
            raise BadRow("wrong type", f"{where} has parts that are not text")
        content = "".join(str(part.get("text") or "") for part in content)
    if content is None:
        raise BadRow("null", f"{where} has no content")
    if not isinstance(content, str):
        raise BadRow("wrong type", f"{where} has content of type {type(content).__name__}, text is needed")
    if not content.strip() and message["role"] == "assistant":
        raise BadRow("empty text", f"{where} is an empty answer")
    return {**message, "role": _valid_text(message["role"], where), "content": _valid_text(content, where)}


def _completion(prompt: Content, completion: Content, column: str) -> Content:
    """Brings a completion to the form of its prompt: plain with plain, messages with messages."""
    if isinstance(prompt, list) and isinstance(completion, str):
        return [{"role": "assistant", "content": completion}]
    if isinstance(prompt, str) and isinstance(completion, list):
        raise BadRow("wrong type", f"column 'prompt' is text but {column!r} is a list of messages")
    if isinstance(completion, list) and completion[-1]["role"] != "assistant":
        raise BadRow("no answer", f"column {column!r} does not end with an assistant message")
    return completion


def _split_conversation(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    """Everything before the first answer is the prompt; the rest is the completion (its answers are trained on)."""
    first = next((index for index, message in enumerate(messages) if message["role"] == "assistant"), None)
    if first is None or messages[-1]["role"] != "assistant":
        raise BadRow("no answer", "column 'messages' does not end with an assistant message")
    if first == 0:
        raise BadRow("no prompt", "column 'messages' starts with an answer")
    return messages[:first], messages[first:]


def _preference(columns: Mapping[str, Any]) -> tuple[Content, Content, Content]:
    """(prompt, chosen, rejected) of a preference row, explicit or implicit."""
    chosen, rejected = _content(columns, "chosen"), _content(columns, "rejected")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise BadRow("wrong type", "one of 'chosen' and 'rejected' is text and the other a list of messages")
    if chosen == rejected:
        raise BadRow("no difference", "columns 'chosen' and 'rejected' are equal")
    prompt = _content(columns, "prompt") if columns.get("prompt") is not None else None
    if isinstance(chosen, list) and isinstance(rejected, list):
        if isinstance(prompt, str) and chosen[0]["role"] == rejected[0]["role"] == "assistant":
            prompt = [{"role": "user", "content": prompt}]
        if isinstance(prompt, list) and chosen[: len(prompt)] != prompt:
            return prompt, _completion(prompt, chosen, "chosen"), _completion(prompt, rejected, "rejected")
        return _common_messages(chosen, rejected)  # whole conversations; a prompt column only repeats their start
    if prompt is not None:
        return prompt, _completion(prompt, chosen, "chosen"), _completion(prompt, rejected, "rejected")
    return common_prompt(str(chosen), str(rejected))


def _common_messages(chosen: list[Message], rejected: list[Message]) -> tuple[Content, Content, Content]:
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    shared = min(shared, len(chosen) - 1, len(rejected) - 1)
    while shared and (chosen[shared]["role"], rejected[shared]["role"]) != ("assistant", "assistant"):
        shared -= 1
    if not shared:
        raise BadRow("no prompt", "'chosen' and 'rejected' share no message before an answer")
    prompt = chosen[:shared]
    return prompt, _completion(prompt, chosen[shared:], "chosen"), _completion(prompt, rejected[shared:], "rejected")


def common_prompt(chosen: str, rejected: str) -> tuple[str, str, str]:
    r"""Splits two texts that start alike into (prompt, chosen completion, rejected completion).

    Transcripts with "\n\nAssistant:" are split after the last such mark that both share, so that the prompt ends with the
    mark and the completions are the answers. If they part in an earlier turn, the completions hold the rest of each
    dialogue, and only its answers are trained on (`rlhf_jax.data.tokenize`). Other texts are split at the last word boundary
    that both share; the space stays with the completion.

    Raises:
        BadRow: no shared prompt, or an empty completion.
    """
    shared = os.path.commonprefix([chosen, rejected])
    if ASSISTANT in chosen and ASSISTANT in rejected:
        mark = shared.rfind(ASSISTANT)
        cut = mark + len(ASSISTANT) if mark >= 0 else 0
    else:
        boundaries = [match.start() for match in re.finditer(r"\s+", shared.rstrip() if shared in (chosen, rejected) else shared)]
        cut = boundaries[-1] if boundaries else 0
    if not chosen[:cut].strip():
        raise BadRow("no prompt", "'chosen' and 'rejected' share no prompt at their start (add a 'prompt' column)")
    for column, text in (("chosen", chosen), ("rejected", rejected)):
        if not text[cut:].strip():
            raise BadRow("empty text", f"column {column!r} has an empty answer")
    return chosen[:cut], chosen[cut:], rejected[cut:]
