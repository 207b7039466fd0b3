"""Where the trained part of an answer ends: with the first token that stops a rollout."""

import functools
import logging
from typing import NamedTuple

from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.errors import BadRow, DataError
from rlhf_jax.data.marked_turns import marked_row
from rlhf_jax.data.messages import ChatOptions, Message
from rlhf_jax.data.tokenizer import FastTokenizer
from rlhf_jax.data.turns import Rendered, Segment, common_prefix, last_row, read_turns, whole_row

logger = logging.getLogger(__name__)

_PROBE: list[Message] = [
    {"role": "user", "content": "Question"},
    {"role": "assistant", "content": "Answer"},
    {"role": "user", "content": "Further"},
    {"role": "assistant", "content": "Second"},
]


class EncodedRow(NamedTuple):
    """Ids of one sequence, and which of them are trained on."""

    ids: list[int]
    trained: list[bool]


class Piece(NamedTuple):
    """A segment with its ids and those of what it is compared with (`Segment.own`, `.opening`)."""

    segment: Segment
    ids: list[int]
    other: list[int]


def trained_row(pieces: list[Piece], tokenizer: FastTokenizer, *, is_chat: bool) -> EncodedRow:
    """Joins the pieces of a completion. Of a chat, each answer is trained on up to its stop.

    The stop may stand in the answer's own text, or be the head of the next message (GLM:
    `<|user|>`).
    """
    row = EncodedRow([], [])
    is_open = False  # the last answer has no stop yet
    for segment, ids, other in pieces:
        start = 0
        end = 0
        stop = 0
        if segment.trained:
            start, end = _span(segment, ids, other)
            stop = _first_stop(segment, ids, (start, end), tokenizer) if is_chat else 0
            if is_chat and not stop:
                stop = _head_stop(ids, end, tokenizer)
            is_open = is_chat and not stop
        elif is_open:
            stop = _head_stop(ids, 0, tokenizer)
            is_open = False
        end = stop or end
        row.ids.extend(ids)
        row.trained.extend([start <= position < end for position in range(len(ids))])
    return row


def _span(segment: Segment, ids: list[int], other: list[int]) -> tuple[int, int]:
    if segment.opening is not None:
        return common_prefix(other, ids), len(ids)
    if segment.own is not None:
        return 0, common_prefix(other, ids)
    return 0, len(ids)


def _first_stop(
    segment: Segment, ids: list[int], span: tuple[int, int], tokenizer: FastTokenizer
) -> int:
    """One past the first stop behind the answer's text; 0: there is none."""
    stops = set(tokenizer.stop_ids)
    hits = [position for position in range(*span) if ids[position] in stops]
    if not hits:
        return 0
    if segment.marked:  # all that is marked is trained, but for white space behind a stop
        last = hits[-1] + 1
        return len(ids) if tokenizer.decode(ids[last : span[1]]).strip() else last
    if len(hits) == 1 and not any(
        text in segment.answer for text in _stop_texts(tokenizer, tokenizer.stop_ids)
    ):
        return hits[0] + 1
    first = _text_end(segment, ids, tokenizer)
    # not written as it is (a call, an escaped text): the run of stops that ends the span
    if first is None:
        return _trailing_stop(ids[: span[1]], hits, tokenizer)
    return next((position + 1 for position in hits if position >= first), 0)


def _trailing_stop(ids: list[int], hits: list[int], tokenizer: FastTokenizer) -> int:
    """One past the first stop of those at the end, parted by white space only; 0: none ends it."""
    end = len(ids)
    for position in reversed(hits):
        if tokenizer.decode(ids[position + 1 : end]).strip():
            break
        end = position
    return end + 1 if end < len(ids) else 0


def _text_end(segment: Segment, ids: list[int], tokenizer: FastTokenizer) -> int | None:
    """Tokens of the answer's text and what precedes it; None: the template did not write it so."""
    begin = 0
    if segment.opening is not None:  # the answer may repeat words of the question
        begin = len(tokenizer.decode(ids[: common_prefix(tokenizer.encode(segment.opening), ids)]))
    place = segment.text.find(segment.answer, max(begin, 0))
    if place < 0 or not segment.answer:
        return None
    return common_prefix(tokenizer.encode(segment.text[: place + len(segment.answer)]), ids)


def _head_stop(ids: list[int], start: int, tokenizer: FastTokenizer) -> int:
    """One past a stop that comes next, white space aside; 0: something else does."""
    for position in range(start, len(ids)):
        if ids[position] in tokenizer.stop_ids:
            return position + 1
        if tokenizer.decode([ids[position]]).strip():
            return 0
    return 0


@functools.lru_cache(maxsize=8)
def _stop_texts(tokenizer: FastTokenizer, stop_ids: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(text for text in (tokenizer.decode([token]) for token in stop_ids) if text)


def trailing_stop(ids: list[int], tokenizer: FastTokenizer) -> int:
    """One past the first stop of those at a text's end, parted by white space only; 0: none."""
    hits = [position for position, token in enumerate(ids) if token in tokenizer.stop_ids]
    return _trailing_stop(ids, hits, tokenizer)


def encode_pieces(segments: list[Segment], tokenizer: FastTokenizer) -> list[Piece]:
    """The segments with their ids."""
    return [
        Piece(
            segment,
            tokenizer.encode(segment.text),
            tokenizer.encode(segment.own or segment.opening or ""),
        )
        for segment in segments
    ]


class TemplateStops(NamedTuple):
    """How answers end in a chat template."""

    between: bool
    """An answer that another message follows ends with a stop (else each answer gets a row of its
    own, where it does)."""
    own: bool
    """An answer at the end of a conversation does."""
    foreign: str = ""
    """The special token that ends an answer instead, and that no rollout stops at."""
    marked: bool = False
    """The template marks itself what is trained."""


@functools.lru_cache(maxsize=8)
def template_stops(tokenizer: FastTokenizer, stop_ids: tuple[int, ...]) -> TemplateStops:
    """Renders user, assistant, user: what ends the answer? `stop_ids` is for the cache's key."""
    del stop_ids
    chat = ChatOptions()
    try:
        marked = marked_row(_PROBE[:1], _PROBE[1:3], chat, tokenizer)
        if marked is not None:
            alone = marked_row(_PROBE[:1], _PROBE[1:2], chat, tokenizer) or marked
            between = _is_stopped(marked, tokenizer)
        else:
            turns = read_turns(_PROBE[:1], _PROBE[1:], chat, tokenizer)
            alone = last_row(turns[0], chat, tokenizer)
            whole = whole_row(turns, tokenizer)
            between = whole is not None and _is_stopped(whole, tokenizer)
    except BadRow:
        return TemplateStops(True, True)  # such conversations it refuses: the rows will tell
    own = _is_stopped(alone, tokenizer)
    return TemplateStops(
        between, own, "" if between or own else _foreign_end(alone, tokenizer), marked is not None
    )


def _is_stopped(rendered: Rendered, tokenizer: FastTokenizer) -> bool:
    """Whether the first answer is trained on a stop."""
    row = trained_row(encode_pieces(rendered.completions[0], tokenizer), tokenizer, is_chat=True)
    first = row.trained.index(True) if True in row.trained else 0
    end = next(
        (index for index in range(first, len(row.ids)) if not row.trained[index]), len(row.ids)
    )
    return any(token in tokenizer.stop_ids for token in row.ids[first:end])


def _foreign_end(alone: Rendered, tokenizer: FastTokenizer) -> str:
    text = "".join(segment.text for segment in alone.completions[0])
    behind = tokenizer.encode(text[text.rfind(_PROBE[1]["content"]) + len(_PROBE[1]["content"]) :])
    special = [
        token
        for token in behind
        if tokenizer.decode([token]) and not tokenizer.decode([token], skip_special_tokens=True)
    ]
    return tokenizer.decode(special[:1])


def check_stops(tokenizer: FastTokenizer, config: DataConfig) -> None:
    """Refuses a template whose answers end with no stop: the model would never learn to stop.

    Raises:
        DataError: names the template, what ends an answer there, and what would have to.
    """
    stops = template_stops(tokenizer, tokenizer.stop_ids)
    if stops.marked and not stops.between:
        logger.warning(
            "the chat template marks as generated ({%% generation %%}) an answer without a token "
            "that stops a rollout, where "
            "another message follows: such answers do not teach the model to stop"
        )
    if stops.between or stops.own or (not stops.foreign and config.append_eos):
        return
    name = (
        "the tokenizer's chat template"
        if config.chat_template is None
        else f"data.chat_template {config.chat_template[:80]!r}"
    )
    known = ", ".join(repr(tokenizer.decode([token])) for token in tokenizer.stop_ids)
    if stops.foreign:
        raise DataError(
            f"{name} ends an answer with {stops.foreign!r}, at which no rollout stops (that is "
            f"{known}): name it in rollout.stop, in eos_token_id of the model's "
            "generation_config.json, or as the tokenizer's eos_token"
        )
    raise DataError(
        f"{name} ends an answer with no token that stops a rollout ({known}), and data.append_eos "
        "is false: set it true, or write the token in the template"
    )


def warn_foreign_stop(tokenizer: FastTokenizer) -> None:
    """Says that rollouts run on behind what the chat template ends an answer with."""
    foreign = template_stops(tokenizer, tokenizer.stop_ids).foreign
    if foreign:
        logger.warning(
            "the chat template ends an answer with %r, at which the tokenizer's stops do not end a "
            "rollout: "
            "name it in rollout.stop, or in eos_token_id of the model's generation_config.json",
            foreign,
        )
