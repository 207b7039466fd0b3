"""Rows whose template marks what is trained on, in `{% generation %}` blocks."""

import functools
import os
import re
from collections.abc import Callable

from rlhf_jax.data.errors import BadRow
from rlhf_jax.data.messages import ChatOptions, Message
from rlhf_jax.data.templates import (
    CLOSE,
    OPEN,
    apply_template,
    dropped_parts,
    marked_tokenizer,
    settle_calls,
)
from rlhf_jax.data.tokenizer import FastTokenizer
from rlhf_jax.data.turns import (
    DROPPED,
    LOST_TAIL,
    Note,
    Rendered,
    Segment,
    check_answer,
    is_trained,
)


def marked_row(
    prompt: list[Message], completion: list[Message], chat: ChatOptions, tokenizer: FastTokenizer
) -> Rendered | None:
    """The rendering, trained on what `{% generation %}` blocks hold; None: it has no such block.

    Raises:
        BadRow: no block stands around an answer of the completion.
    """
    marked = marked_tokenizer(tokenizer)
    if marked is None:
        return None
    messages = settle_calls(tokenizer, [*prompt, *completion], chat)

    @functools.cache
    def blocks_before(end: int) -> int:
        """How many `{% generation %}` blocks the first messages have."""
        return (
            apply_template(marked, messages[:end], chat, add_generation_prompt=False).count(OPEN)
            if end
            else 0
        )

    trained_blocks = _trained_blocks(messages, len(prompt), blocks_before)
    parts = re.split(
        f"[{OPEN}{CLOSE}]", apply_template(marked, messages, chat, add_generation_prompt=False)
    )
    segments: list[Segment] = []
    for index, text in enumerate(parts):
        trained = index % 2 == 1 and trained_blocks(index // 2)
        if text and segments and segments[-1].trained == trained:  # blocks that touch are one
            text = segments.pop().text + text
        segments += [Segment(text, trained, marked=True)] if text else []
    first = next((index for index, segment in enumerate(segments) if segment.trained), None)
    if first is None:
        raise BadRow(
            "chat template", "the chat template marks nothing of the answers with {% generation %}"
        )
    before = "".join(segment.text for segment in segments[:first])
    blocks = [text if trained_blocks(index) else "" for index, text in enumerate(parts[1::2])]
    notes = _marked_notes(messages, len(prompt), blocks, blocks_before, marked)
    opening = apply_template(tokenizer, messages[: len(prompt)], chat, add_generation_prompt=True)
    if opening.startswith(before) and not "".join(parts).startswith(opening):
        tail = opening[len(os.path.commonprefix([opening, "".join(parts)])) :]
        notes += [Note(LOST_TAIL, repr(tail))] if tail.strip() else []
    return Rendered(before, [segments[first:]], True, tuple(notes))


def _marked_notes(
    messages: list[Message],
    num_prompt: int,
    blocks: list[str],
    blocks_before: Callable[[int], int],
    marked: FastTokenizer,
) -> list[Note]:
    """Notes on the trained answers behind the prompt, by what their `{% generation %}` blocks hold.

    Args:
        messages: the conversation.
        num_prompt: how many of them are the prompt.
        blocks: what the blocks of its rendering hold, "" where they are not trained on.
        blocks_before: how many blocks the first messages have.
        marked: the tokenizer that marks the ends of the blocks.

    Raises:
        BadRow: the template writes nothing of an answer, but a stop.
    """
    answers = [index for index in range(num_prompt, len(messages)) if is_trained(messages[index])]
    owned = {index: blocks for index in answers}
    if len(answers) > 1:
        try:
            ends = [blocks_before(end) for end in range(len(messages) + 1)]
        except BadRow:  # the template takes the conversation as a whole only
            ends = []
        # else blocks change as messages follow
        if ends and ends[-1] == len(blocks) and ends == sorted(ends):
            owned = {index: blocks[ends[index] : ends[index + 1]] for index in answers}
    notes: list[Note] = []
    for index in answers:
        own = "".join(owned[index])
        if own:
            notes += check_answer(messages[index], own, marked)
        elif missing := dropped_parts(messages[index], own):
            notes.append(Note(DROPPED, " and ".join(missing)))
    return notes


def _trained_blocks(
    messages: list[Message], num_prompt: int, blocks_before: Callable[[int], int]
) -> Callable[[int], bool]:
    """Which `{% generation %}` blocks are trained on: behind the prompt, unless marked."""
    earlier = blocks_before(num_prompt)
    left_out: set[int] = set()
    for index in range(num_prompt, len(messages)):
        if messages[index]["role"] == "assistant" and not is_trained(messages[index]):
            left_out.update(range(blocks_before(index), blocks_before(index + 1)))
    return lambda block: block >= earlier and block not in left_out
