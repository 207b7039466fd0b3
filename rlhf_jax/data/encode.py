"""One example to token ids with a mask of what is trained on.

The prompt and each answer are tokenised on their own and joined, so that the prompt's ids are a
prefix of every row, as they are when the model samples. The stop of an answer belongs to the
answer.

Read `render_all` first (an example to rows of texts), then `encode_rows` (their ids), then `fit`
(what to cut where a row is too long).
"""

import functools
import re
from typing import cast

import numpy as np

from rlhf_jax.data.cells import ASSISTANT, HUMAN
from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.errors import BadRow, Dropped
from rlhf_jax.data.kinds import JudgedExample, PairExample, PromptExample, TextExample
from rlhf_jax.data.marked_turns import marked_row
from rlhf_jax.data.messages import TOOLS, VARIABLES, ChatOptions, Content, Message
from rlhf_jax.data.spans import EncodedRow, Piece, template_stops, trailing_stop, trained_row
from rlhf_jax.data.templates import apply_template, settle_calls
from rlhf_jax.data.tokenizer import FastTokenizer
from rlhf_jax.data.turns import (
    REWRITTEN,
    Note,
    Rendered,
    Segment,
    Turn,
    last_row,
    read_turns,
    whole_row,
)

_LATER_TURNS = re.compile(f"({re.escape(HUMAN)}.*?{re.escape(ASSISTANT)})", re.DOTALL)
SECOND_BOS = "second BOS"
NO_CHAT = "no chat"
"""Kinds of notes."""


def render_all(
    example: TextExample, tokenizer: FastTokenizer
) -> list[tuple[TextExample, Rendered]]:
    """A text example as rows: one, or one an answer where the template rewrites earlier ones.

    Raises:
        BadRow: the chat template refuses the conversation, or nothing of an answer is left in it.
    """
    prompt = example.prompt
    if not isinstance(prompt, list):
        return [(example, render(example, tokenizer))]
    completion = cast(list[Message], example.completion)
    marked = marked_row(prompt, completion, example.chat, tokenizer)
    if marked is not None:
        return [(example, marked)]
    turns = read_turns(prompt, completion, example.chat, tokenizer)
    whole = _whole(turns, tokenizer, needs_stops=True)
    if whole is not None:
        return [(example, whole)]
    rows = []
    for turn in (turn for turn in turns if turn.trained):
        own = example._replace(prompt=turn.history, completion=[turn.message])
        rows.append((own, last_row(turn, example.chat, tokenizer)))
    return rows


def _whole(turns: list[Turn], tokenizer: FastTokenizer, *, needs_stops: bool) -> Rendered | None:
    if len(turns) > 1 and needs_stops and not template_stops(tokenizer, tokenizer.stop_ids).between:
        return None
    return whole_row(turns, tokenizer)


def render(
    example: TextExample | PairExample | JudgedExample, tokenizer: FastTokenizer
) -> Rendered:
    """Writes an example out as text, conversations through the chat template, one row a completion.

    Raises:
        BadRow: the chat template refuses the conversation, or nothing of an answer is left in it.
    """
    answers: list[Content]
    if isinstance(example, TextExample):
        answers = [example.completion]
    elif isinstance(example, PairExample):
        answers = [example.chosen, example.rejected]
    else:
        assert example.unrelated is not None
        answers = [example.completion, example.unrelated]
    prompt = example.prompt
    if isinstance(prompt, list):
        rows = [
            _unit(prompt, cast(list[Message], answer), example.chat, tokenizer)
            for answer in answers
        ]
        return _joined(rows)
    notes = _plain_notes(prompt or str(answers[0]), example.chat, tokenizer)
    return Rendered(
        prompt or "", [_transcript_segments(prompt, answer) for answer in answers], False, notes
    )


def _unit(
    prompt: list[Message], completion: list[Message], chat: ChatOptions, tokenizer: FastTokenizer
) -> Rendered:
    """A completion as one row, whatever the template does: at worst trained on the last answer."""
    turns = read_turns(prompt, completion, chat, tokenizer)
    whole = _whole(turns, tokenizer, needs_stops=False)
    if whole is not None:
        return whole
    last = last_row(turns[-1], chat, tokenizer)
    return (
        last
        if sum(turn.trained for turn in turns) <= 1
        else last._replace(notes=(*last.notes, Note(REWRITTEN, "")))
    )


def _joined(rows: list[Rendered]) -> Rendered:
    """Chosen and rejected as one; where prompts are written differently, each holds its own."""
    notes = tuple(note for row in rows for note in row.notes)
    if len({row.prompt for row in rows}) == 1:
        return Rendered(rows[0].prompt, [row.completions[0] for row in rows], True, notes)
    held = [
        [Segment(row.prompt, False), *row.completions[0]] if row.prompt else row.completions[0]
        for row in rows
    ]
    return Rendered("", held, True, notes)


def _plain_notes(text: str, chat: ChatOptions, tokenizer: FastTokenizer) -> tuple[Note, ...]:
    notes = []
    if tokenizer.prefix_ids and text.startswith(_prefix_text(tokenizer)):
        notes.append(Note(SECOND_BOS, repr(_prefix_text(tokenizer))))
    given = [name for name, value in ((TOOLS, chat.tools), (VARIABLES, chat.variables)) if value]
    if given:
        notes.append(Note(NO_CHAT, " and ".join(given)))
    return tuple(notes)


@functools.lru_cache(maxsize=8)
def _prefix_text(tokenizer: FastTokenizer) -> str:
    return tokenizer.decode(tokenizer.prefix_ids)


def render_prompt(example: PromptExample, tokenizer: FastTokenizer) -> Rendered:
    """Writes a prompt without a completion; of a conversation, the template opens the answer.

    Raises:
        BadRow: the conversation ends with an answer already, or the chat template refuses it.
    """
    prompt = example.prompt
    if isinstance(prompt, str):
        return Rendered(prompt, [], False, _plain_notes(prompt, example.chat, tokenizer))
    if prompt[-1]["role"] == "assistant":
        raise BadRow(
            "no question",
            "column 'prompt' ends with an answer, so there is nothing to ask the model",
        )
    messages = settle_calls(tokenizer, prompt, example.chat)
    return Rendered(
        apply_template(tokenizer, messages, example.chat, add_generation_prompt=True), [], True
    )


def _transcript_segments(prompt: str | None, answer: Content) -> list[Segment]:
    r"""An answer, or the rest of a dialogue, untrained from "\n\nHuman:" to "\n\nAssistant:"."""
    text = str(answer)
    if prompt is None or not prompt.endswith(ASSISTANT):
        return [Segment(text, True)]
    parts = [Segment(part, index % 2 == 0) for index, part in enumerate(_LATER_TURNS.split(text))]
    return [part for part in parts if part.text]


def encode_rows(
    rendered: list[Rendered], tokenizer: FastTokenizer, config: DataConfig
) -> list[tuple[list[int], list[EncodedRow]]]:
    """(prompt ids, completions) of each example, whole, in one call of the tokenizer."""
    encoded = iter(tokenizer.encode_batch([text for item in rendered for text in _texts(item)]))
    result = []
    for item in rendered:
        prompt = next(encoded)
        rows = []
        for segments in item.completions:
            pieces = [
                Piece(segment, next(encoded), next(encoded) if _other(segment) is not None else [])
                for segment in segments
            ]
            row = trained_row(pieces, tokenizer, is_chat=item.is_chat)
            rows.append(_finish(row, tokenizer, config, is_chat=item.is_chat))
        if item.is_chat and not item.prompt and rows:
            result.append(_split_prompt(rows))
        else:
            first = prompt or (rows[0].ids if rows else [])
            result.append((([] if item.is_chat else _prefix(first, tokenizer)) + prompt, rows))
    return result


def _texts(item: Rendered) -> list[str]:
    texts = [item.prompt]
    for segment in (segment for row in item.completions for segment in row):
        other = _other(segment)
        texts += [segment.text] if other is None else [segment.text, other]
    return texts


def _other(segment: Segment) -> str | None:
    return segment.opening if segment.own is None else segment.own


def _prefix(ids: list[int], tokenizer: FastTokenizer) -> list[int]:
    """The tokenizer's special tokens before a text; none where the user's rendering has them."""
    prefix = list(tokenizer.prefix_ids)
    return [] if ids[: len(prefix)] == prefix else prefix


def _split_prompt(rows: list[EncodedRow]) -> tuple[list[int], list[EncodedRow]]:
    """What all rows begin with before anything is trained on, and the rest of each."""
    shared = 0
    while all(shared < len(row.ids) and not row.trained[shared] for row in rows):
        if len({row.ids[shared] for row in rows}) > 1:
            break
        shared += 1
    return rows[0].ids[:shared], [
        EncodedRow(row.ids[shared:], row.trained[shared:]) for row in rows
    ]


def _finish(
    row: EncodedRow, tokenizer: FastTokenizer, config: DataConfig, *, is_chat: bool
) -> EncodedRow:
    """Ends the row with its last trained token, and that with EOS where no stop ends it."""
    if True not in row.trained:
        return EncodedRow([], [])
    last = len(row.trained) - row.trained[::-1].index(True)
    stop = 0 if is_chat else trailing_stop(row.ids[:last], tokenizer)
    last = stop or last
    ids = row.ids[:last]
    trained = row.trained[:last]
    is_stopped = ids[-1] in tokenizer.stop_ids if is_chat else stop > 0
    if config.append_eos and not is_stopped:
        return EncodedRow([*ids, tokenizer.eos_id], [*trained, True])
    return EncodedRow(ids, trained)


def num_prefix(prompt: list[int], tokenizer: FastTokenizer) -> int:
    """How many special ids open a prompt: the tokenizer's, or the BOS of a chat template."""
    prefixes = [tokenizer.prefix_ids, [] if tokenizer.bos_id is None else [tokenizer.bos_id]]
    return next(
        (len(prefix) for prefix in prefixes if prefix and prompt[: len(prefix)] == prefix), 0
    )


def fit_prompt(
    prompt: list[int], limit: int, config: DataConfig, *, num_prefix: int = 0
) -> list[int]:
    """A prompt of at most `limit` tokens; "keep_end" cuts it behind the first `num_prefix` ids.

    Raises:
        Dropped: it is longer under another policy, or empty.
    """
    if not prompt:
        raise Dropped("empty prompt")
    if len(prompt) <= limit:
        return prompt
    if config.prompt_truncation != "keep_end":
        raise Dropped("prompt too long")
    return _keep_end(prompt, limit, num_prefix)


def _keep_end(prompt: list[int], limit: int, num_prefix: int) -> list[int]:
    kept = num_prefix if num_prefix < limit else 0
    return prompt[:kept] + prompt[len(prompt) - (limit - kept) :]


def prompt_budget(prompt: list[int], rows: list[EncodedRow], config: DataConfig) -> int:
    """Tokens that the prompt of these completions may have under "keep_end".

    Half of `max_length` at least, and what the completions leave. Where they lose later answers
    beside half of it anyway, the prompt is left whole if it fits with the first answers.
    """
    limit = config.max_length
    prompt_limit = limit - 1 if config.max_prompt_len is None else config.max_prompt_len
    room = limit - limit // 2
    if max(len(row.ids) for row in rows) > room:
        firsts = max(_first_answer(row) for row in rows)
        if len(prompt) + firsts <= limit:
            return min(prompt_limit, len(prompt))
    kept = max(min(len(row.ids), _whole_answers(row, room)) for row in rows)
    return min(prompt_limit, limit - kept)


def _first_answer(row: EncodedRow) -> int:
    """One past the last token of the first answer."""
    first = row.trained.index(True) if True in row.trained else 0
    return next(
        (index for index in range(first, len(row.ids)) if not row.trained[index]), len(row.ids)
    )


def fit(
    prompt: list[int],
    rows: list[EncodedRow],
    config: DataConfig,
    *,
    num_prefix: int = 0,
    deciding: int | None = None,
) -> tuple[list[EncodedRow], bool]:
    """Joins prompt and completions within the length limits.

    All rows of a pair keep the same prompt. "keep_end" cuts the prompt's start (the first
    `num_prefix` ids stay), but not below half of `max_length`, then the completion's end;
    "keep_start" cuts the completion's end; "drop" cuts nothing. Of a completion with several
    answers whole ones stay, where one fits. With `deciding` the first so many rows decide, and
    others lose whatever then does not fit.

    Returns:
        The whole rows, and whether anything of those that decide was cut.

    Raises:
        Dropped: the example cannot keep a token of each completion, or is too long under "drop".
    """
    limit = config.max_length
    prompt_limit = limit - 1 if config.max_prompt_len is None else config.max_prompt_len
    decisive = rows[:deciding]
    longest = max(len(row.ids) for row in decisive)
    whole = len(prompt) <= prompt_limit and len(prompt) + longest <= limit
    if not whole and config.row_truncation == "drop":
        raise Dropped("too long")
    if config.row_truncation == "keep_end":
        budget = prompt_budget(prompt, decisive, config)
        if len(prompt) > budget:
            prompt = _keep_end(prompt, budget, num_prefix)
    elif len(prompt) > prompt_limit:
        raise Dropped("prompt too long")
    joined = []
    for row in rows:
        room = _whole_answers(row, limit - len(prompt))
        trained = [False] * len(prompt) + row.trained[:room]
        if config.train_on == "all":
            trained = [True] * len(trained)
        trained[:1] = [False]  # nothing predicts the first token
        if True not in trained:
            raise Dropped("no completion token")
        joined.append(EncodedRow(prompt + row.ids[:room], trained))
    if len(joined) == 2 and deciding is None and joined[0].ids == joined[1].ids:
        raise Dropped("no difference")
    return joined, not whole


def _whole_answers(row: EncodedRow, room: int) -> int:
    """Where to cut a row so that no later answer loses its end; `room` in the first answer."""
    if len(row.ids) <= room:
        return room
    ends = [
        index for index in range(1, room + 1) if row.trained[index - 1] and not row.trained[index]
    ]
    return ends[-1] if ends else room


def flatten(rows: list[EncodedRow]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids int32, trained bool, length of each row int64) of many rows end to end."""
    ids = np.fromiter((token for row in rows for token in row.ids), np.int32)
    trained = np.fromiter((flag for row in rows for flag in row.trained), np.bool_)
    return ids, trained, np.array([len(row.ids) for row in rows], np.int64)
