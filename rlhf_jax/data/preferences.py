"""Preference rows: the prompt that chosen and rejected share, explicit or implicit."""

import os
import re
from collections.abc import Mapping
from typing import Any

from rlhf_jax.data.cells import ASSISTANT, MESSAGES, like_prompt, read_content, whole_conversation
from rlhf_jax.data.errors import BadRow
from rlhf_jax.data.messages import Content, Message


def read_preference(columns: Mapping[str, Any]) -> tuple[Content, Content, Content]:
    """(prompt, chosen, rejected) of a preference row, explicit or implicit."""
    chosen = read_content(columns, "chosen")
    rejected = read_content(columns, "rejected")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise BadRow(
            "wrong type", "one of 'chosen' and 'rejected' is text and the other a list of messages"
        )
    if chosen == rejected:
        raise BadRow("no difference", "columns 'chosen' and 'rejected' are equal")
    prompt = read_content(columns, "prompt") if columns.get("prompt") is not None else None
    if isinstance(chosen, list) and isinstance(rejected, list):
        are_answers = chosen[0]["role"] == rejected[0]["role"] == "assistant"
        if prompt is None and are_answers and any(column in columns for column in MESSAGES):
            prompt = whole_conversation(columns)[1]
        if isinstance(prompt, str) and are_answers:
            prompt = [{"role": "user", "content": prompt}]
        if isinstance(prompt, list) and chosen[: len(prompt)] != prompt:
            return (
                prompt,
                like_prompt(prompt, chosen, "chosen"),
                like_prompt(prompt, rejected, "rejected"),
            )
        # whole conversations; a prompt column only repeats their start
        return common_messages(chosen, rejected)
    if prompt is not None:
        return (
            prompt,
            like_prompt(prompt, chosen, "chosen"),
            like_prompt(prompt, rejected, "rejected"),
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
        like_prompt(prompt, chosen[shared:], "chosen"),
        like_prompt(prompt, rejected[shared:], "rejected"),
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
