"""Column formats: which one a data set has, and its rows as examples of what an algorithm needs.

| format            | columns                                         | text | pairs | prompts |
|-------------------|-------------------------------------------------|------|-------|---------|
| prompt_completion | `prompt` and `completion`                       | yes  |       | yes     |
| messages          | `messages`, or `conversations` (ShareGPT)       | yes  |       | yes (*) |
| text              | `text`                                          | yes  |       |         |
| preference        | `chosen` and `rejected`, `prompt` if explicit   | yes (**) | yes | yes   |
| prompt            | `prompt` (verl's rows: a chat list)             |      |       | yes     |
| tokens            | `input_ids`; `labels`, masks if there           | yes  |       |         |

Texts are plain strings or conversations (lists of `{"role", "content"}`, see
`rlhf_jax.data.messages`), with the columns `tools` and `chat_template_kwargs` for the chat
template. (*) up to the last answer. (**) prompt and chosen.

An answer with `weight: 0` (OpenAI), `train: false` or `training: false` (axolotl), `loss: false`
(ms-swift) or `loss_mask: 0` (slime) is context, and not trained on.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.errors import BadRow, DataError
from rlhf_jax.data.messages import (
    ChatOptions,
    Content,
    Message,
    read_chat_options,
    read_conversation,
    valid_text,
)

Kind: TypeAlias = Literal["text", "pairs", "prompts"]

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
"""Turn marks of hh-rlhf transcripts."""


class TextExample(NamedTuple):
    """Something to imitate. `prompt` is None for a bare `text`, all of which is trained on."""

    prompt: Content | None
    completion: Content
    where: str
    chat: ChatOptions = ChatOptions()


class PairExample(NamedTuple):
    """A prompt with a better and a worse completion."""

    prompt: Content
    chosen: Content
    rejected: Content
    margin: float | None
    where: str
    chat: ChatOptions = ChatOptions()


class PromptExample(NamedTuple):
    """A prompt, with the other columns of its row for reward functions."""

    prompt: Content
    columns: dict[str, Any]
    where: str
    chat: ChatOptions = ChatOptions()


class TokenExample(NamedTuple):
    """Something to imitate that was tokenised elsewhere, with the very tokenizer of the run."""

    ids: list[int]
    trained: list[bool]
    where: str
    prompt: None = None


Example: TypeAlias = TextExample | PairExample | PromptExample | TokenExample

REQUIRED: dict[str, tuple[str, ...]] = {
    "prompt_completion": ("prompt", "completion"),
    "preference": ("chosen", "rejected"),
    "messages": ("messages",),
    "text": ("text",),
    "prompt": ("prompt",),
    "tokens": ("input_ids",),
}
MESSAGES = ("messages", "conversations", "conversation")
"""Columns that hold a whole conversation: OpenAI's name and ShareGPT's."""
READABLE: dict[str, tuple[str, ...]] = {
    "text": ("prompt_completion", "messages", "preference", "text", "tokens"),
    "pairs": ("preference",),
    "prompts": ("prompt_completion", "preference", "messages", "prompt"),
}
"""Formats per kind, the first that fits is taken."""


def rename_columns(columns: Mapping[str, Any], mapping: Mapping[str, str]) -> dict[str, Any]:
    """Applies `{ours: theirs}`; "a.b" reads field b of the object in column a. Missing: omitted."""
    renamed = {key: value for key, value in columns.items() if key not in mapping.values()}
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
            "data.columns)"
        )
    return best


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
    if form == "preference":
        prompt, chosen, rejected = _preference(columns)
        if kind == "text":
            return TextExample(prompt, chosen, where, chat)
        return PairExample(prompt, chosen, rejected, _margin(columns), where, chat)
    if form == "prompt_completion":
        prompt = _content(columns, "prompt")
        completion = _completion(prompt, _content(columns, "completion"), "completion")
        return TextExample(prompt, completion, where, chat)
    if form == "messages":
        column, messages = _whole_conversation(columns)
        prompt, completion = _split_conversation(messages, column)
        return TextExample(prompt, completion, where, chat)
    return TextExample(None, _plain(columns, "text"), where)


def _missing(columns: Mapping[str, Any], form: str) -> list[str]:
    """Columns that the format needs and the row lacks."""
    if form == "messages" and any(column in columns for column in MESSAGES):
        return []
    return [column for column in REQUIRED[form] if column not in columns]


def _whole_conversation(columns: Mapping[str, Any]) -> tuple[str, list[Message]]:
    """(column, messages); ShareGPT's system message may stand in a column of its own."""
    column = next(column for column in MESSAGES if column in columns)
    messages = read_conversation(columns[column], column)
    system = columns.get("system") if column != "messages" else None
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": valid_text(system, "column 'system'")}, *messages]
    return column, messages


def _prompt_example(
    columns: Mapping[str, Any], form: str, where: str, chat: ChatOptions
) -> PromptExample:
    if form == "preference":
        prompt: Content = _preference(columns)[0]
    elif form == "messages":
        column, prompt = _whole_conversation(columns)
        prompt = prompt[:-1] if prompt[-1]["role"] == "assistant" else prompt
        if not prompt:
            raise BadRow("no prompt", f"column {column!r} holds nothing before the answer")
    else:
        prompt = _content(columns, "prompt")
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
    trained, present = [True] * len(ids), [True] * len(ids)
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


def _content(columns: Mapping[str, Any], column: str) -> Content:
    value = columns[column]
    if isinstance(value, list | tuple | Mapping):
        return read_conversation(value, column)
    if value is not None and not isinstance(value, str):
        raise BadRow(
            "wrong type",
            f"column {column!r} is {type(value).__name__}, text or a list of messages is needed",
        )
    return _plain(columns, column)


def _plain(columns: Mapping[str, Any], column: str) -> str:
    value = columns[column]
    if value is None:
        raise BadRow("null", f"column {column!r} is null")
    if not isinstance(value, str):
        raise BadRow("wrong type", f"column {column!r} is {type(value).__name__}, text is needed")
    if not value.strip():
        raise BadRow("empty text", f"column {column!r} is empty")
    return valid_text(value, f"column {column!r}")


def _completion(prompt: Content, completion: Content, column: str) -> Content:
    """Brings a completion to the form of its prompt: plain with plain, messages with messages."""
    if isinstance(prompt, list) and isinstance(completion, str):
        return [{"role": "assistant", "content": completion}]
    if isinstance(prompt, str) and isinstance(completion, list):
        raise BadRow("wrong type", f"column 'prompt' is text but {column!r} is a list of messages")
    if isinstance(completion, list) and completion[-1]["role"] != "assistant":
        raise BadRow("no answer", f"column {column!r} does not end with an assistant message")
    return completion


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


def _preference(columns: Mapping[str, Any]) -> tuple[Content, Content, Content]:
    """(prompt, chosen, rejected) of a preference row, explicit or implicit."""
    chosen, rejected = _content(columns, "chosen"), _content(columns, "rejected")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise BadRow(
            "wrong type", "one of 'chosen' and 'rejected' is text and the other a list of messages"
        )
    if chosen == rejected:
        raise BadRow("no difference", "columns 'chosen' and 'rejected' are equal")
    prompt = _content(columns, "prompt") if columns.get("prompt") is not None else None
    if isinstance(chosen, list) and isinstance(rejected, list):
        are_answers = chosen[0]["role"] == rejected[0]["role"] == "assistant"
        if prompt is None and are_answers and any(column in columns for column in MESSAGES):
            prompt = _whole_conversation(columns)[1]
        if isinstance(prompt, str) and are_answers:
            prompt = [{"role": "user", "content": prompt}]
        if isinstance(prompt, list) and chosen[: len(prompt)] != prompt:
            return (
                prompt,
                _completion(prompt, chosen, "chosen"),
                _completion(prompt, rejected, "rejected"),
            )
        # whole conversations; a prompt column only repeats their start
        return common_messages(chosen, rejected)
    if prompt is not None:
        return (
            prompt,
            _completion(prompt, chosen, "chosen"),
            _completion(prompt, rejected, "rejected"),
        )
    return common_prompt(str(chosen), str(rejected))


def common_messages(
    chosen: list[Message], rejected: list[Message]
) -> tuple[Content, Content, Content]:
    """Splits two conversations that start alike into (prompt, chosen answers, rejected answers).

    The prompt ends before the first answer in which they differ, or before the last one that they
    share where they part with a question.

    Raises:
        BadRow: they share no message before an answer, or do not end with one.
    """
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    shared = min(shared, len(chosen) - 1, len(rejected) - 1)
    while shared and (chosen[shared]["role"], rejected[shared]["role"]) != (
        "assistant",
        "assistant",
    ):
        shared -= 1
    if not shared:
        raise BadRow("no prompt", "'chosen' and 'rejected' share no message before an answer")
    prompt = chosen[:shared]
    return (
        prompt,
        _completion(prompt, chosen[shared:], "chosen"),
        _completion(prompt, rejected[shared:], "rejected"),
    )


def common_prompt(chosen: str, rejected: str) -> tuple[str, str, str]:
    r"""Splits two texts that start alike into (prompt, chosen completion, rejected completion).

    Transcripts with "\n\nAssistant:" are split after the last such mark that both share, so that
    the prompt ends with the mark and the completions are the answers. If they part in an earlier
    turn, the completions hold the rest of each dialogue, and only its answers are trained on
    (`rlhf_jax.data.tokenize`). Other texts are split at the last word boundary that both share; the
    space stays with the completion.

    Raises:
        BadRow: no shared prompt, or an empty completion.
    """
    shared = os.path.commonprefix([chosen, rejected])
    if ASSISTANT in chosen and ASSISTANT in rejected:
        mark = shared.rfind(ASSISTANT)
        cut = mark + len(ASSISTANT) if mark >= 0 else 0
    else:
        boundaries = [
            match.start()
            for match in re.finditer(
                r"\s+", shared.rstrip() if shared in (chosen, rejected) else shared
            )
        ]
        cut = boundaries[-1] if boundaries else 0
    if not chosen[:cut].strip():
        raise BadRow(
            "no prompt",
            "'chosen' and 'rejected' share no prompt at their start (add a 'prompt' column)",
        )
    for column, text in (("chosen", chosen), ("rejected", rejected)):
        if not text[cut:].strip():
            raise BadRow("empty text", f"column {column!r} has an empty answer")
    return chosen[:cut], chosen[cut:], rejected[cut:]
