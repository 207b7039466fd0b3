"""Conversations through the chat template: calls as it takes them, its marks, what it left out."""

import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rlhf_jax.data.errors import BadRow, DataError
from rlhf_jax.data.messages import ChatOptions, Message
from rlhf_jax.data.tokenizer import FastTokenizer

PROBE = "PROBE"
"""A text to look for in a rendering."""
OPEN = "\ue000"
CLOSE = "\ue001"
"""Stand for the ends of a `{% generation %}` block in a rendering: private characters, which no
text has."""
_REASONING = ("reasoning_content", "reasoning", "thinking")
"""Keys of a message that hold its reasoning, in the templates that read one."""
_THINK_TAGS = re.compile(r"</?think>")


def apply_template(
    tokenizer: FastTokenizer,
    messages: list[Message],
    chat: ChatOptions,
    *,
    add_generation_prompt: bool,
) -> str:
    """The conversation as text.

    Raises:
        BadRow: the template refuses it.
    """
    if takes_parts(tokenizer):
        messages = [_in_parts(message) for message in messages]
    try:
        return tokenizer.apply_chat_template(
            messages, add_generation_prompt, tools=chat.tools, template_kwargs=chat.variables
        )
    except DataError as error:
        raise BadRow("chat template", str(error)) from None


@functools.lru_cache(maxsize=8)
def takes_parts(tokenizer: FastTokenizer) -> bool:
    """Whether the template writes text only in parts (`[{"type": "text", ...}]`), as for vision."""
    question: Message = {"role": "user", "content": PROBE}

    def writes(message: Message) -> bool:
        try:
            return PROBE in tokenizer.apply_chat_template([message], True)
        except DataError:  # refused: not this form
            return False

    return not writes(question) and writes(_in_parts(question))


def _in_parts(message: Message) -> Message:
    content = message.get("content")
    return (
        {**message, "content": [{"type": "text", "text": content}]}
        if isinstance(content, str)
        else message
    )


def settle_calls(
    tokenizer: FastTokenizer, messages: list[Message], chat: ChatOptions
) -> list[Message]:
    """The messages with their tool calls in the form that the template writes out rightly.

    Some templates take `arguments` as an object and quote a text once more; some take JSON text and
    write an object as Python does, or refuse it; some print the `content` that a call has not as
    "None". So the forms are tried on the conversation.

    Raises:
        BadRow: the template refuses every form.
    """
    if not any(message.get("tool_calls") for message in messages):
        return messages
    best: tuple[int, list[Message]] | None = None
    refusal: BadRow | None = None
    for form in _call_forms(messages):
        try:
            text = apply_template(tokenizer, form, chat, add_generation_prompt=False)
        except BadRow as error:
            refusal = refusal or error
            continue
        faults = _call_faults(form, text)
        if best is None or faults < best[0]:
            best = (faults, form)
        if not faults:
            break
    if best is None:
        raise refusal or BadRow("chat template", "the chat template refuses the tool calls")
    return best[1]


def _call_forms(messages: list[Message]) -> Iterator[list[Message]]:
    for empty in (None, ""):
        for arguments in (_as_given, _as_object, _as_text):
            yield [_with_calls(message, arguments, empty) for message in messages]


def _with_calls(message: Message, arguments: Any, empty: str | None) -> Message:
    calls = message.get("tool_calls")
    if not calls:
        return message
    content = empty if message.get("content") is None else message["content"]
    return {
        **message,
        "content": content,
        "tool_calls": [_with_arguments(call, arguments) for call in calls],
    }


def _with_arguments(call: Mapping[str, Any], arguments: Any) -> dict[str, Any]:
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _with_arguments(call["function"], arguments)}
    return (
        {**call, "arguments": arguments(call["arguments"])} if "arguments" in call else dict(call)
    )


def _as_given(arguments: Any) -> Any:
    return arguments


def _as_object(arguments: Any) -> Any:
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):  # not JSON: nothing but the text can be shown
        return arguments


def _as_text(arguments: Any) -> Any:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _call_faults(messages: list[Message], text: str) -> int:
    """How often it shows arguments quoted twice or as Python writes them, or a missing content."""
    faults = 0
    for message in messages:
        for call in message.get("tool_calls") or ():
            function = call["function"] if isinstance(call.get("function"), Mapping) else call
            arguments = function.get("arguments")
            if isinstance(arguments, str):
                faults += any(
                    json.dumps(arguments, ensure_ascii=ascii_) in text for ascii_ in (True, False)
                )
            elif arguments:
                faults += repr(arguments) in text and repr(arguments) != json.dumps(
                    arguments, ensure_ascii=False
                )
    if any(message.get("tool_calls") and message.get("content") is None for message in messages):
        known = sum(
            str(value).count("None")
            for message in messages
            for value in message.values()
            if value is not None
        )
        faults += text.count("None") > known
    return faults


@functools.lru_cache(maxsize=8)
def marked_tokenizer(tokenizer: FastTokenizer) -> FastTokenizer | None:
    """The tokenizer, its template writing `OPEN` and `CLOSE` around blocks; None: it has none."""
    template = tokenizer.chat_template
    opened = re.sub(
        r"\{%([-+]?)\s*generation\s*([-+]?)%\}",
        rf"{{%\1 generation %}}{{{{ '{OPEN}' }}}}{{% set generation_opened = true \2%}}",
        template,
    )
    if opened == template:
        return None
    marked = re.sub(
        r"\{%([-+]?)\s*endgeneration\s*([-+]?)%\}",
        rf"{{%\1 set generation_closed = true %}}{{{{ '{CLOSE}' }}}}{{% endgeneration \2%}}",
        opened,
    )
    return tokenizer.with_chat_template(marked)


def dropped_parts(message: Message, written: str) -> list[str]:
    """What the template left out of an answer, white space aside.

    Args:
        message: the answer as the row gives it.
        written: what the template made of it.

    Returns:
        The missing parts by name: "reasoning", "text", "tool call".
    """
    found = squeeze(written)
    parts = [
        ("reasoning", str(message[key])) for key in _REASONING if isinstance(message.get(key), str)
    ]
    pieces = _THINK_TAGS.split(message.get("content") or "")
    parts += [
        ("reasoning" if index < len(pieces) - 1 else "text", piece)
        for index, piece in enumerate(pieces)
    ]
    missing = [name for name, text in parts if squeeze(text) not in found]
    rest = written  # where calls may be: a text that speaks of a tool is no call
    for piece in sorted((text.strip() for _, text in parts if text.strip()), key=len, reverse=True):
        rest = rest.replace(piece, " ", 1)
    for call in message.get("tool_calls") or ():
        function = call["function"] if isinstance(call.get("function"), Mapping) else call
        name = str(function.get("name") or "")
        # the f of <|endoftext|> is no call of f
        if name and not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", rest):
            missing.append("tool call")
    return list(dict.fromkeys(missing))


def squeeze(text: str) -> str:
    """The text without its white space."""
    return "".join(text.split())
