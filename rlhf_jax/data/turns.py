"""A conversation as rows of text pieces, with what each answer adds marked as trained.

One rule for all templates. Of every answer two texts are looked at: its *opening*, the history with
the generation prompt (what the model sees when it answers), and its *ending*, the history with the
answer. Where the whole rendering goes on from every opening, the conversation is one row. Where the
template rewrites earlier turns (Qwen3 and R1 drop their reasoning, gpt-oss ends them otherwise), it
is *unrolled*: one row an answer, each the rendering that ends with it.
"""

import os
from typing import NamedTuple

from rlhf_jax.data.errors import BadRow
from rlhf_jax.data.messages import TRAIN, ChatOptions, Message
from rlhf_jax.data.templates import PROBE, apply_template, dropped_parts, settle_calls, squeeze
from rlhf_jax.data.tokenizer import FastTokenizer

LOST_TAIL = "lost tail"
DROPPED = "dropped"
REWRITTEN = "rewritten"
"""Kinds of notes; `rlhf_jax.data.notes` puts them into words."""


class Segment(NamedTuple):
    """A piece of text that is tokenised on its own."""

    text: str
    trained: bool
    answer: str = ""
    """The answer's text as the template writes it, to tell a stop behind it from one inside it."""
    own: str | None = None
    """What the answer's own rendering writes here: only the tokens that both share are trained."""
    opening: str | None = None
    """What the model sees before it answers: the tokens that both share are not trained."""
    marked: bool = False
    """The template marks itself what is trained."""


class Note(NamedTuple):
    """Something about a row that the user should know, counted over the data."""

    kind: str
    detail: str


class Rendered(NamedTuple):
    """An example as text: one completion (text) or two (chosen, rejected)."""

    prompt: str
    """Empty where a completion's first segment holds it (`Segment.opening`)."""
    completions: list[list[Segment]]
    is_chat: bool
    """The chat template has placed the special tokens already."""
    notes: tuple[Note, ...] = ()


class Turn(NamedTuple):
    """An answer with the texts around it."""

    message: Message
    history: list[Message]
    opening: str
    ending: str

    @property
    def own(self) -> str | None:
        """What the answer adds to its opening; None: its rendering does not go on from there."""
        goes_on = self.ending.startswith(self.opening) and len(self.ending) > len(self.opening)
        return self.ending[len(self.opening) :] if goes_on else None

    @property
    def trained(self) -> bool:
        """Whether the row does not mark the answer as one that is not trained on."""
        return is_trained(self.message)

    @property
    def answer(self) -> str:
        """The answer's text."""
        return (self.message.get("content") or "").strip()


def is_trained(message: Message) -> bool:
    """Whether a message is an answer that is trained on (`weight: 0` and the like say no)."""
    return message["role"] == "assistant" and message.get(TRAIN) is not False


def read_turns(
    prompt: list[Message], completion: list[Message], chat: ChatOptions, tokenizer: FastTokenizer
) -> list[Turn]:
    """The answers of a completion, each with its two renderings, up to the last that is trained on.

    Raises:
        BadRow: the template refuses the conversation.
    """
    messages = settle_calls(tokenizer, [*prompt, *completion], chat)
    turns = []
    for index in range(len(prompt), len(messages)):
        if messages[index]["role"] == "assistant":
            history = messages[:index]
            opening = apply_template(tokenizer, history, chat, add_generation_prompt=True)
            ending = apply_template(
                tokenizer, messages[: index + 1], chat, add_generation_prompt=False
            )
            turns.append(Turn(messages[index], history, opening, ending))
    last = max((index for index, turn in enumerate(turns) if turn.trained), default=len(turns) - 1)
    return turns[: last + 1]


def whole_row(turns: list[Turn], tokenizer: FastTokenizer) -> Rendered | None:
    """All answers in one row; None where the template rewrites a turn when the next follows."""
    opening = turns[0].opening
    last = turns[-1]
    segments: list[Segment] = []
    notes: list[Note] = []
    for turn, following in zip(turns, [*turns[1:], None], strict=True):
        own = turn.own
        if following is not None and not turn.trained:  # context, however the template writes it
            if not following.opening.startswith(turn.opening):
                return None
            segments.append(Segment(following.opening[len(turn.opening) :], False))
            continue
        if own is None:
            return None
        if following is None or following.opening.startswith(turn.ending):
            gap = "" if following is None else following.opening[len(turn.ending) :]
            segments += [Segment(own, turn.trained, turn.answer), Segment(gap, False)]
        elif following.opening.startswith(turn.opening):
            rest = following.opening[len(turn.opening) :]
            if not _keeps_answer(turn, os.path.commonprefix([own, rest])):
                return None
            segments.append(Segment(rest, True, turn.answer, own=own))
        else:
            return None
        notes += check_answer(turn.message, own, tokenizer)
    if not last.ending.startswith(opening):
        return None
    return Rendered(
        opening, [[segment for segment in segments if segment.text]], True, tuple(notes)
    )


def _keeps_answer(turn: Turn, kept: str) -> bool:
    """Whether what an answer's rendering shares with a later one holds all written of it."""
    return set(dropped_parts(turn.message, kept)) <= set(
        dropped_parts(turn.message, turn.own or "")
    )


def last_row(turn: Turn, chat: ChatOptions, tokenizer: FastTokenizer) -> Rendered:
    """A row that ends with the answer and is trained on it alone.

    Raises:
        BadRow: nothing of the answer, or not even the question, can be told apart in the rendering.
    """
    own = turn.own
    if own is not None:
        notes = check_answer(turn.message, own, tokenizer)
        return Rendered(turn.opening, [[Segment(own, True, turn.answer)]], True, tuple(notes))
    opening = tokenizer.encode(turn.opening)
    ending = tokenizer.encode(turn.ending)
    shared = common_prefix(opening, ending)
    if not _holds(_question(turn.history), tokenizer.decode(ending[:shared])):
        written = _written_anew(turn, tokenizer.decode(ending[:shared]), chat, tokenizer)
        if written:
            notes = check_answer(turn.message, written, tokenizer)
            return Rendered(
                turn.opening, [[Segment(written, True, turn.answer)]], True, tuple(notes)
            )
        raise BadRow(
            "chat template",
            "the chat template changes earlier turns when an answer follows, so prompt and answer "
            "cannot be told apart (set data.chat_template to one that only appends)",
        )
    parted = len(os.path.commonprefix([turn.opening, turn.ending]))
    written = turn.ending[parted:]
    # white space alone parts them: the context that the model sees, then what follows
    if not turn.opening[parted:].strip():
        notes = check_answer(turn.message, written, tokenizer)
        return Rendered(turn.opening, [[Segment(written, True, turn.answer)]], True, tuple(notes))
    return _without_tail(turn, tokenizer.decode(opening[shared:]), chat, tokenizer)


def _without_tail(turn: Turn, tail: str, chat: ChatOptions, tokenizer: FastTokenizer) -> Rendered:
    """The row of an answer whose rendering lacks the tail of its generation prompt (R1: `<think>`).

    Args:
        turn: the answer.
        tail: the end of its opening that its ending does not share, by tokens.
        chat: what the template sees besides the messages.
        tokenizer: with the template.
    """
    head = turn.opening
    begins = _answer_begins(turn, chat, tokenizer)
    # the first characters of the answer are the first of the tail: they are the answer's
    if begins is not None:
        head = turn.opening[:begins]
        tail = turn.opening[begins:]
    content = (turn.message.get("content") or "").lstrip()
    if content.startswith(tail.strip()):
        # the answer begins with what the generation prompt supplies: exactly what the model sees
        # and samples
        body = content[len(tail.strip()) :].removeprefix(tail[len(tail.rstrip()) :])
        text = body + _terminator(turn, chat, tokenizer)
        return Rendered(turn.opening, [[Segment(text, True, body.strip())]], True)
    written = turn.ending[len(os.path.commonprefix([head, turn.ending])) :]
    notes = [Note(LOST_TAIL, repr(tail)), *check_answer(turn.message, written, tokenizer)]
    return Rendered(
        "", [[Segment(turn.ending, True, turn.answer, opening=head)]], True, tuple(notes)
    )


def _answer_begins(turn: Turn, chat: ChatOptions, tokenizer: FastTokenizer) -> int | None:
    """Where the answer begins, if opening and ending are alike beyond that place by chance.

    A `<` of the answer is no part of the generation prompt's `<think>`. None: what they share ends
    before the answer.
    """
    probe = [*turn.history, {**turn.message, "content": PROBE}]
    text = apply_template(tokenizer, probe, chat, add_generation_prompt=False)
    head = len(os.path.commonprefix([turn.opening, text]))
    alike = turn.opening[head : len(os.path.commonprefix([turn.opening, turn.ending]))].strip()
    return (
        head if alike and (turn.message.get("content") or "").lstrip().startswith(alike) else None
    )


def _question(history: list[Message]) -> Message:
    """The last message of the user (a tool's result may be written in another form)."""
    return next(
        (message for message in reversed(history) if message["role"] == "user"), history[-1]
    )


def _holds(message: Message, shared: str) -> bool:
    return squeeze(message.get("content") or "") in squeeze(shared) and bool(shared)


def _written_anew(turn: Turn, shared: str, chat: ChatOptions, tokenizer: FastTokenizer) -> str:
    """What follows the generation prompt in the ending of a template that rewrites its history.

    In LFM2.5 the opening shows the reasoning of the answer before, the ending does not. Empty: no
    such place, or all is rewritten.
    """
    if not _holds(turn.history[0], shared):
        return ""
    before = apply_template(tokenizer, turn.history, chat, add_generation_prompt=False)
    header = turn.opening.removeprefix(before)
    question = turn.ending.rfind(
        (turn.history[-1].get("content") or "").strip(), 0, turn.ending.rfind(turn.answer)
    )
    if header == turn.opening or not header.strip() or question < 0:
        return ""
    return turn.ending[question:].partition(header)[2]


def _terminator(turn: Turn, chat: ChatOptions, tokenizer: FastTokenizer) -> str:
    """What the template writes behind the text of an answer."""
    probe = [*turn.history, {**turn.message, "content": PROBE}]
    text = apply_template(tokenizer, probe, chat, add_generation_prompt=False)
    if PROBE not in text:
        raise BadRow("chat template", "the chat template does not write the text of an answer")
    return text.rpartition(PROBE)[2]


def check_answer(message: Message, written: str, tokenizer: FastTokenizer) -> list[Note]:
    """Notes on an answer that the template did not write as it is.

    Raises:
        BadRow: nothing of it is left.
    """
    missing = dropped_parts(message, written)
    if not missing:
        return []
    if not tokenizer.decode(tokenizer.encode(written), skip_special_tokens=True).strip():
        raise BadRow(
            "chat template",
            f"the chat template writes nothing of an answer (its {' and '.join(missing)})",
        )
    return [Note(DROPPED, " and ".join(missing))]


def common_prefix(one: list[int], other: list[int]) -> int:
    """How many tokens both begin with."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return min(len(one), len(other))
