r"""Transcripts of several turns as text ("\n\nHuman: ...", as in hh-rlhf), made conversations.

A mark stands at the start of the text or behind an empty line: "Human:" inside a line, or at the
start of one that no empty line comes before, is text. Turns of the same speaker in a row are one
message, so that roles take turns as chat templates want it.
"""

import re

from rlhf_jax.data.errors import BadRow
from rlhf_jax.data.kinds import (
    Example,
    JudgedExample,
    PairExample,
    PromptExample,
    TextExample,
)
from rlhf_jax.data.messages import Message
from rlhf_jax.data.preferences import common_messages

_MARK = re.compile(r"(?:\A\s*|\n[^\S\n]*\n\s*)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def read_transcript(text: str, where: str) -> list[Message]:
    r"""The turns of a transcript as messages, without the white space around their texts.

    A last turn without text (the open "\n\nAssistant:" of a prompt) is left out; text in front of
    the first mark is a system message.

    Args:
        text: the transcript.
        where: what it is, for the message of an error.

    Raises:
        BadRow: it has no mark, or nothing but marks.
    """
    before, *parts = _MARK.split(text)
    if not parts:
        raise BadRow(
            "no transcript",
            f"{where} has no turn that begins with 'Human:' or 'Assistant:' behind an empty line",
        )
    messages: list[Message] = (
        [{"role": "system", "content": before.strip()}] if before.strip() else []
    )
    for speaker, said in zip(parts[::2], parts[1::2], strict=True):
        role = _ROLES[speaker]
        content = said.strip()
        if messages and messages[-1]["role"] == role:
            content = "\n\n".join(part for part in (messages.pop()["content"], content) if part)
        messages.append({"role": role, "content": content})
    if not messages[-1]["content"]:
        messages.pop()
    if not messages:
        raise BadRow("empty text", f"{where} has turns without text only")
    empty = next(
        (number for number, message in enumerate(messages, 1) if not message["content"]), None
    )
    if empty is not None:
        raise BadRow("empty text", f"{where} has nothing said in turn {empty}")
    return messages


def as_conversation(example: Example) -> Example:
    """A row of transcripts as one of conversations.

    Raises:
        BadRow: it holds no transcript, does not end as it must, or its prompt ends within a turn.
    """
    if isinstance(example, PromptExample) and isinstance(example.prompt, str):
        messages = read_transcript(example.prompt, "the prompt")
        asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
        if not any(message["role"] == "user" for message in asked):
            raise BadRow("no prompt", "the transcript holds no question")
        return example._replace(prompt=asked)
    if isinstance(example, TextExample | JudgedExample) and isinstance(example.completion, str):
        prompt, completion = _split(example.prompt, example.completion)
        return example._replace(prompt=prompt, completion=completion)
    if isinstance(example, PairExample) and isinstance(example.prompt, str):
        texts = [
            _whole(example.prompt, str(answer)) for answer in (example.chosen, example.rejected)
        ]
        chosen, rejected = (
            read_transcript(text, name)
            for text, name in zip(texts, ("'chosen'", "'rejected'"), strict=True)
        )
        if chosen == rejected:
            raise BadRow("no difference", "'chosen' and 'rejected' differ in white space only")
        shared, better, worse = common_messages(chosen, rejected)
        return example._replace(prompt=shared, chosen=better, rejected=worse)
    raise BadRow(
        "no transcript",
        "data.transcript is for texts, and this row holds messages or token ids: leave it false",
    )


def _split(prompt: object, completion: str) -> tuple[list[Message], list[Message]]:
    """(question, answer); of a bare text without a prompt all answers are trained on."""
    if isinstance(prompt, str):
        messages = read_transcript(_whole(prompt, completion), "the row")
        asked = read_transcript(prompt, "the prompt")
        first = len(asked)
        if messages[:first] != asked:
            if not prompt.rstrip().endswith("Assistant:"):
                raise BadRow(
                    "no prompt",
                    "the prompt ends within a turn that the completion goes on with: end it with "
                    "'Assistant:'",
                )
            first -= 1  # two answers in a row, which are one message
    else:
        messages = read_transcript(completion, "the text")
        first = next(
            (index for index, message in enumerate(messages) if message["role"] == "assistant"),
            len(messages),
        )
    if not any(message["role"] == "user" for message in messages[:first]):
        raise BadRow("no prompt", "the transcript holds no question before an answer")
    if not messages[first:] or messages[-1]["role"] != "assistant":
        raise BadRow("no answer", "the transcript does not end with an answer")
    return messages[:first], messages[first:]


def _whole(prompt: str, answer: str) -> str:
    """The text of both, of which the answer may repeat the prompt."""
    return answer if answer.strip().startswith(prompt.strip()) else prompt + answer
