"""What the cells of a row hold: a text, or a conversation."""

from collections.abc import Mapping
from typing import Any

from rlhf_jax.data.errors import BadRow
from rlhf_jax.data.messages import Content, Message, read_conversation, valid_text

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"
"""Turn marks of hh-rlhf transcripts."""
MESSAGES = ("messages", "conversations", "conversation")
"""Columns that hold a whole conversation: OpenAI's name and ShareGPT's."""


def whole_conversation(columns: Mapping[str, Any]) -> tuple[str, list[Message]]:
    """(column, messages); ShareGPT's system message may stand in a column of its own."""
    column = next(column for column in MESSAGES if column in columns)
    messages = read_conversation(columns[column], column)
    system = columns.get("system") if column != "messages" else None
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": valid_text(system, "column 'system'")}, *messages]
    return column, messages


def read_content(columns: Mapping[str, Any], column: str) -> Content:
    """A text or a conversation, whichever the cell holds."""
    value = columns[column]
    if isinstance(value, list | tuple | Mapping):
        return read_conversation(value, column)
    if value is not None and not isinstance(value, str):
        raise BadRow(
            "wrong type",
            f"column {column!r} is {type(value).__name__}, text or a list of messages is needed",
        )
    return plain_text(columns, column)


def plain_text(columns: Mapping[str, Any], column: str) -> str:
    """A text that is there and not empty."""
    value = columns[column]
    if value is None:
        raise BadRow("null", f"column {column!r} is null")
    if not isinstance(value, str):
        raise BadRow("wrong type", f"column {column!r} is {type(value).__name__}, text is needed")
    if not value.strip():
        raise BadRow("empty text", f"column {column!r} is empty")
    return valid_text(value, f"column {column!r}")


def like_prompt(prompt: Content, completion: Content, column: str) -> Content:
    """Brings a completion to the form of its prompt: plain with plain, messages with messages."""
    if isinstance(prompt, list) and isinstance(completion, str):
        return [{"role": "assistant", "content": completion}]
    if isinstance(prompt, str) and isinstance(completion, list):
        raise BadRow("wrong type", f"column 'prompt' is text but {column!r} is a list of messages")
    if isinstance(completion, list) and completion[-1]["role"] != "assistant":
        raise BadRow("no answer", f"column {column!r} does not end with an assistant message")
    return completion
