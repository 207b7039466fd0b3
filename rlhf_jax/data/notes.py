"""What to know about rows that can be used: counted over a split, said once, with the first row."""

import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from rlhf_jax.data.encode import NO_CHAT, SECOND_BOS
from rlhf_jax.data.marks import NO_ANSWER, RENDERED, UNREAD
from rlhf_jax.data.turns import DROPPED, LOST_TAIL, REWRITTEN, Note

logger = logging.getLogger(__name__)

WORDS = {
    SECOND_BOS: "{count} texts begin with {detail} already, as a rendering of the chat template "
    "does: no second one is put in front",
    NO_CHAT: "{detail} has no effect on {count} rows of plain text: give messages, or set "
    "data.conversational true",
    RENDERED: "{count} conversations hold {detail} in the text of a message, which the chat "
    "template writes itself: texts that were rendered before get a second wrapping; give them "
    "without data.conversational, or messages without the template's marks",
    NO_ANSWER: "{count} conversations mark a message that is no answer as trained on, which has no "
    "effect: answers are trained on, or everything with data.train_on=all",
    UNREAD: "the chat template reads no variable {detail}, so this chat_template_kwargs has no "
    "effect in {count} conversations: correct the name, or leave it out",
    LOST_TAIL: "the chat template leaves {detail}, the end of its generation prompt, out of "
    "finished answers: {count} answers are trained on in another context than the model sees when "
    "it answers; begin them with it, or set data.chat_template_kwargs",
    DROPPED: "the chat template leaves out the {detail} of {count} answers, so they are not "
    "trained on as the rows give them",
    REWRITTEN: "the chat template rewrites earlier answers when a further message follows: of "
    "{count} completions the last answer alone is trained on",
}
"""Kind of a note -> what is said about it."""


class Counted(NamedTuple):
    """How often something was noted, and where first."""

    times: int
    detail: str
    where: str


def count_notes(notes: Iterable[tuple[str, Note]]) -> dict[str, Counted]:
    """(row, note) pairs in storage order -> kind -> count, with the first row and its detail."""
    counted: dict[str, Counted] = {}
    for where, note in notes:
        first = counted.get(note.kind, Counted(0, note.detail, where))
        counted[note.kind] = first._replace(times=first.times + 1)
    return counted


def warn(notes: Mapping[str, Counted], name: str) -> None:
    """One warning a kind."""
    for kind, counted in notes.items():
        text = WORDS[kind].format(count=counted.times, detail=counted.detail)
        logger.warning("%s: %s (the first: %s)", name, text, counted.where)


def warn_shortened(count: int, total: int, name: str, limit: str) -> None:
    """One warning with the share of rows that lost something."""
    if count:
        logger.warning(
            "%s: %d of %d rows (%.1f %%) shortened to %s",
            name,
            count,
            total,
            100 * count / total,
            limit,
        )
