"""Conversations as people store them: OpenAI messages, ShareGPT, tool calls, columns of a row.

`read_conversation` brings any of these forms to OpenAI's, message by message; `read_chat_options`
takes what the other columns of a row say about the template. Everything that cannot be read is a
`BadRow` with its reason.
"""

import difflib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from rlhf_jax.data.errors import BadRow
from rlhf_jax.fields import documented

Message: TypeAlias = dict[str, Any]
Content: TypeAlias = str | list[Message]
"""A plain text or a conversation."""

TOOLS = "tools"
VARIABLES = "chat_template_kwargs"
"""Columns that go to the chat template."""
_OURS = {
    "add_generation_prompt": "the prompt opens the answer and a finished conversation does not, "
    "as training needs it",
    "continue_final_message": "an answer that is begun goes into the prompt of a plain text",
    "tools": "give data.tools, or a column 'tools'",
    "messages": "the row's own messages are rendered",
    "conversation": "the row's own messages are rendered",
    "chat_template": "give data.chat_template",
    "tokenize": "texts are tokenised by the library (data.max_length, data.truncation)",
    "padding": "texts are tokenised by the library (data.max_length, data.truncation)",
    "truncation": "give data.truncation",
    "max_length": "give data.max_length",
    "return_tensors": "texts are tokenised by the library",
    "return_dict": "texts are tokenised by the library",
    "return_assistant_tokens_mask": "give data.train_on",
    "tokenizer_kwargs": "texts are tokenised by the library",
}
"""Arguments of `apply_chat_template` that are no variables of a template -> what to do instead."""

TRAIN = "train"
"""Key of a message after reading: False on an answer that is not trained on, True on a message that
is no answer. Else absent."""
_MARKS = ("weight", "train", "training", "loss", "loss_mask")
"""Keys of a message that say whether it is trained on: OpenAI's, axolotl's two, ms-swift's and
slime's."""

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "assistant",
}
"""Who speaks in `{"from": ..., "value": ...}` -> role."""
_ROLES = ("user", "assistant", "system", "developer", "tool", "function")
_RENAMED_ROLES = {"human": "user", "gpt": "assistant"}  # ShareGPT whose keys alone were renamed


@documented
class ChatOptions(NamedTuple):
    """What the chat template of a row sees besides the messages."""

    tools: list[Any] | None = None
    """Function schemas, as transformers takes them."""
    variables: dict[str, Any] | None = None
    """`chat_template_kwargs`, such as `{"enable_thinking": False}`."""


def read_chat_options(columns: Mapping[str, Any]) -> ChatOptions:
    """A row's `tools` (a list, or JSON text) and `chat_template_kwargs` (an object, or JSON text).

    Raises:
        BadRow: one of them is something else.
    """
    tools = _from_json(columns.get(TOOLS), TOOLS)
    if isinstance(tools, list | tuple):
        tools = [_from_json(tool, TOOLS) if isinstance(tool, str) else tool for tool in tools]
        if not all(isinstance(tool, Mapping) for tool in tools):
            raise BadRow(
                "wrong type", f"column {TOOLS!r} holds something that is not a function schema"
            )
    elif tools is not None:
        raise BadRow(
            "wrong type", f"column {TOOLS!r} is {type(tools).__name__}, a list of schemas is needed"
        )
    variables = _from_json(columns.get(VARIABLES), VARIABLES)
    if variables is not None and not isinstance(variables, Mapping):
        raise BadRow(
            "wrong type", f"column {VARIABLES!r} is {type(variables).__name__}, an object is needed"
        )
    # parquet fills keys up with null
    kept = {key: value for key, value in (variables or {}).items() if value is not None}
    fault = variables_fault(kept)
    if fault:
        raise BadRow("wrong type", f"column {VARIABLES!r} {fault}")
    return ChatOptions(tools or None, kept or None)


def variables_fault(variables: Mapping[str, Any]) -> str:
    """What is wrong with names of `chat_template_kwargs`, and the right place; empty: nothing."""
    for name in variables:
        if not isinstance(name, str):
            return f"has the name {name!r}: names are text"
        if name in _OURS:
            return f"holds {name!r}, which is no variable of a template: {_OURS[name]}"
    return ""


def _from_json(value: Any, column: str) -> Any:
    if not isinstance(value, str):
        return value
    if not value.strip():  # an empty CSV field
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise BadRow("wrong type", f"column {column!r} is text that is not JSON") from None


def read_conversation(value: Any, column: str) -> list[Message]:
    """The messages of a column, in roles that chat templates know.

    Raises:
        BadRow: no list of messages, or a message without role or content.
    """
    if value is None:
        raise BadRow("null", f"column {column!r} is null")
    if isinstance(value, Mapping):  # ShareGPT's preference sets hold one message, not a list of one
        value = [value]
    if not isinstance(value, list | tuple):
        raise BadRow(
            "wrong type",
            f"column {column!r} is {type(value).__name__}, a list of messages is needed",
        )
    if not value:
        raise BadRow("empty text", f"column {column!r} is an empty list")
    return [
        _message(message, f"column {column!r}, message {number}")
        for number, message in enumerate(value, start=1)
    ]


def _message(message: Any, where: str) -> Message:
    if isinstance(message, Mapping):
        message = _from_sharegpt(_without_nulls(message), where)
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise BadRow("wrong type", f"{where} is not an object with 'role' and 'content'")
    content = message.get("content")
    calls = message.get("tool_calls")
    if isinstance(content, list):
        if any(not isinstance(part, Mapping) or part.get("type") != "text" for part in content):
            raise BadRow("wrong type", f"{where} has parts that are not text")
        content = "".join(str(part.get("text") or "") for part in content)
    if content is None and not calls:
        raise BadRow("null", f"{where} has no content")
    if content is not None and not isinstance(content, str):
        raise BadRow(
            "wrong type", f"{where} has content of type {type(content).__name__}, text is needed"
        )
    if calls is not None and not (
        isinstance(calls, list) and all(isinstance(call, Mapping) for call in calls)
    ):
        raise BadRow("wrong type", f"{where} has tool_calls that are no list of calls")
    if not (content or "").strip() and message["role"] == "assistant" and not calls:
        raise BadRow("empty text", f"{where} is an empty answer")
    content = None if content is None else valid_text(content, where)
    role = valid_text(message["role"], where)
    role = _RENAMED_ROLES.get(role, role)
    _check_role(role, where)
    others, marks = _split_marks(message, role, where)
    return {**others, "role": role, "content": content, **marks}


def _check_role(role: str, where: str) -> None:
    """Refuses a misspelt role. Others that are not known here may be known to the chat template.

    Raises:
        BadRow: the role is nearly one of `_ROLES`.
    """
    plain = role.strip().lower()
    plain = _RENAMED_ROLES.get(plain, plain)
    meant = (
        [plain]
        if plain in _ROLES
        else difflib.get_close_matches(plain, _ROLES[:3], n=1, cutoff=0.8)
    )
    if meant and role != meant[0]:
        raise BadRow(
            "wrong type", f"{where} has the unknown role {role[:40]!r}; did you mean {meant[0]!r}?"
        )


def _split_marks(
    message: Mapping[str, Any], role: str, where: str
) -> tuple[dict[str, Any], dict[str, bool]]:
    """(the message without its marks, `TRAIN` where its value is not what holds without a mark)."""
    said: dict[str, bool] = {}
    for key in _MARKS:
        value = message.get(key)
        if value is None:
            continue
        if not isinstance(value, bool | int | float) or value not in (0, 1):  # pandas writes 1.0
            allowed = "0 or 1" if key == "weight" else "true or false"
            raise BadRow(
                "wrong type", f"{where} has {key} {str(value)[:40]!r}, which must be {allowed}"
            )
        said[key] = bool(value)
    if len(set(said.values())) > 1:
        raise BadRow(
            "wrong type",
            f"{where} says both that it is trained on and that it is not ({', '.join(said)})",
        )
    others = {key: value for key, value in message.items() if key not in _MARKS}
    is_answer = role == "assistant"
    # weight 1 is what the format gives every message anyway; a true elsewhere asks for something
    differs = any(said[key] != is_answer and (key != "weight" or is_answer) for key in said)
    return others, {TRAIN: not is_answer} if differs else {}


def _without_nulls(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Parquet gives every message the keys of all: `tool_calls: None` looks like tool calls."""
    kept = {key: value for key, value in message.items() if value is not None}
    if not kept.get("tool_calls", True):
        del kept["tool_calls"]
    return kept


def _from_sharegpt(message: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """`{"from": "human", "value": ...}` as a message; other messages as they are."""
    if "role" in message or "from" not in message:
        return message
    speaker = message["from"]
    if speaker not in SHAREGPT_ROLES:
        known = ", ".join(SHAREGPT_ROLES)
        raise BadRow(
            "wrong type", f"{where} is from {str(speaker)[:40]!r}, which is none of {known}"
        )
    others = {key: value for key, value in message.items() if key not in ("from", "value")}
    if speaker == "function_call":
        return {**others, "role": "assistant", "tool_calls": _calls(message.get("value"), where)}
    return {**others, "role": SHAREGPT_ROLES[speaker], "content": message.get("value")}


def _calls(value: Any, where: str) -> list[Message]:
    """ShareGPT's function call, `{"name", "arguments"}` or a list of them, mostly as JSON text."""
    try:
        calls = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise BadRow("wrong type", f"{where} is a function call that is not JSON") from None
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(
        isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls
    ):
        raise BadRow("wrong type", f"{where} is a function call without a name")
    return [
        {
            "type": "function",
            "function": {"name": call["name"], "arguments": call.get("arguments", {})},
        }
        for call in calls
    ]


def valid_text(text: str, where: str) -> str:
    """JSON can spell half a surrogate pair ("\\ud83d"), no Unicode text and without bytes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRow(
            "invalid text", f"{where} holds a lone surrogate at character {error.start}"
        ) from None
    return text
