"""One example to token ids with a mask of what is trained on.

The prompt and each answer are tokenised on their own and joined, so that the prompt's ids are a prefix of every row, as they
are when the model samples. The answer's EOS belongs to the answer.
"""

import re
from typing import NamedTuple, cast

import numpy as np

from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.errors import BadRow, DataError
from rlhf_jax.data.formats import ASSISTANT, HUMAN, Content, Message, PairExample, PromptExample, TextExample
from rlhf_jax.data.tokenizer import Tokenizer

_LATER_TURNS = re.compile(f"({re.escape(HUMAN)}.*?{re.escape(ASSISTANT)})", re.DOTALL)


class Segment(NamedTuple):
    """A piece of text that is tokenised on its own."""

    text: str
    trained: bool


class Rendered(NamedTuple):
    """An example as text: one completion (text) or two (chosen, rejected)."""

    prompt: str
    completions: list[list[Segment]]
    is_chat: bool
    """The chat template has placed the special tokens already."""


class EncodedRow(NamedTuple):
    """Ids of one sequence, and which of them are trained on."""

    ids: list[int]
    trained: list[bool]


class Dropped(Exception):
    """An example that does not fit; `args[0]` is the reason it is counted under."""


def render(example: TextExample | PairExample, tokenizer: Tokenizer) -> Rendered:
    """Writes an example out as text, conversations through the chat template.

    Raises:
        BadRow: the chat template refuses the conversation, or is not prefix-stable on it.
    """
    answers = [example.completion] if isinstance(example, TextExample) else [example.chosen, example.rejected]
    prompt = example.prompt
    if isinstance(prompt, list):
        opening = _apply_template(tokenizer, prompt, add_generation_prompt=True)
        return Rendered(
            opening, [_render_turns(prompt, cast(list[Message], answer), opening, tokenizer) for answer in answers], True
        )
    return Rendered(prompt or "", [_transcript_segments(prompt, answer) for answer in answers], False)


def render_prompt(example: PromptExample, tokenizer: Tokenizer) -> Rendered:
    """Writes a prompt without a completion; of a conversation, the template opens the answer.

    Raises:
        BadRow: the conversation ends with an answer already, or the chat template refuses it.
    """
    prompt = example.prompt
    if isinstance(prompt, str):
        return Rendered(prompt, [], False)
    if prompt[-1]["role"] == "assistant":
        raise BadRow("no question", "column 'prompt' ends with an answer, so there is nothing to ask the model")
    return Rendered(_apply_template(tokenizer, prompt, add_generation_prompt=True), [], True)


def _transcript_segments(prompt: str | None, answer: Content) -> list[Segment]:
    r"""An answer, or the rest of a dialogue: what stands from "\n\nHuman:" to "\n\nAssistant:" is not trained on."""
    text = str(answer)
    if prompt is None or not prompt.endswith(ASSISTANT):
        return [Segment(text, True)]
    parts = [Segment(part, index % 2 == 0) for index, part in enumerate(_LATER_TURNS.split(text))]
    return [part for part in parts if part.text]


def _render_turns(prompt: list[Message], answer: list[Message], opening: str, tokenizer: Tokenizer) -> list[Segment]:
    segments: list[Segment] = []
    done = opening
    for index, message in enumerate(answer):
        if message["role"] != "assistant":
            continue
        history = [*prompt, *answer[:index]]
        start = _apply_template(tokenizer, history, add_generation_prompt=True)
        end = _apply_template(tokenizer, [*history, message], add_generation_prompt=False)
        if not (start.startswith(done) and end.startswith(start) and len(end) > len(start)):
            raise BadRow(
                "chat template",
                "the chat template changes earlier turns when an answer follows, so prompt and answer cannot be told apart "
                "(set data.chat_template to one that only appends)",
            )
        segments += [Segment(start[len(done) :], False), Segment(end[len(start) :], True)]
        done = end
    return [segment for segment in segments if segment.text]


def _apply_template(tokenizer: Tokenizer, messages: list[Message], *, add_generation_prompt: bool) -> str:
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt)
    except DataError as error:
        raise BadRow("chat template", str(error)) from None


def encode_rows(rendered: list[Rendered], tokenizer: Tokenizer, config: DataConfig) -> list[tuple[list[int], list[EncodedRow]]]:
    """(prompt ids, completions) of each example, whole, in one call of the tokenizer."""
    texts = [text for item in rendered for text in (item.prompt, *(part.text for row in item.completions for part in row))]
    encoded = iter(tokenizer.encode_batch(texts))
    result = []
    for item in rendered:
        prompt = ([] if item.is_chat else list(tokenizer.prefix_ids)) + next(encoded)
        rows = []
        for segments in item.completions:
            row = EncodedRow([], [])
            for segment in segments:
                ids = next(encoded)
                answer_end = _end_of_turn(ids, tokenizer) if item.is_chat else len(ids)
                row.ids.extend(ids)
                row.trained.extend([segment.trained and position < answer_end for position in range(len(ids))])
            rows.append(_finish(row, tokenizer, config))
        result.append((prompt, rows))
    return result


def _end_of_turn(ids: list[int], tokenizer: Tokenizer) -> int:
    """One past the EOS that closes a chat turn; what the template puts behind it (a newline) is not the answer's."""
    if tokenizer.eos_id not in ids:
        return len(ids)
    end = len(ids) - ids[::-1].index(tokenizer.eos_id)
    return len(ids) if tokenizer.decode(ids[end:]).strip() else end


def _finish(row: EncodedRow, tokenizer: Tokenizer, config: DataConfig) -> EncodedRow:
    """Ends the row with its last trained token, and that with EOS."""
    last = len(row.trained) - row.trained[::-1].index(True) if True in row.trained else 0
    ids, trained = row.ids[:last], row.trained[:last]
    if config.append_eos and (not ids or ids[-1] != tokenizer.eos_id):
        return EncodedRow([*ids, tokenizer.eos_id], [*trained, True])
    return EncodedRow(ids, trained)


def num_prefix(prompt: list[int], tokenizer: Tokenizer) -> int:
    """How many special ids open a prompt: the tokenizer's own, or the BOS that a chat template wrote."""
    prefixes = [tokenizer.prefix_ids, [] if tokenizer.bos_id is None else [tokenizer.bos_id]]
    return next((len(prefix) for prefix in prefixes if prefix and prompt[: len(prefix)] == prefix), 0)


def fit_prompt(prompt: list[int], limit: int, config: DataConfig, *, num_prefix: int = 0) -> list[int]:
    """A prompt of at most `limit` tokens. "keep_end" cuts its start, of which the first `num_prefix` ids stay.

    Raises:
        Dropped: it is longer under "keep_start" or "drop", or empty.
    """
    if not prompt:
        raise Dropped("empty prompt")
    if len(prompt) <= limit:
        return prompt
    if config.truncation != "keep_end":
        raise Dropped("prompt too long")
    kept = num_prefix if num_prefix < limit else 0
    return prompt[:kept] + prompt[len(prompt) - (limit - kept) :]


def fit(prompt: list[int], rows: list[EncodedRow], config: DataConfig, *, num_prefix: int = 0) -> tuple[list[EncodedRow], bool]:
    """Joins prompt and completions within the length limits.

    All rows of a pair keep the same prompt. "keep_end" cuts the prompt's start (the first `num_prefix` ids stay), but not
    below half of `max_length`, then the completion's end; "keep_start" cuts the completion's end; "drop" cuts nothing.

    Returns:
        The whole rows, and whether anything was cut.

    Raises:
        Dropped: the example cannot keep a token of each completion, or is too long under "drop".
    """
    limit = config.max_length
    prompt_limit = limit - 1 if config.max_prompt_len is None else config.max_prompt_len
    longest = max(len(row.ids) for row in rows)
    whole = len(prompt) <= prompt_limit and len(prompt) + longest <= limit
    if not whole and config.truncation == "drop":
        raise Dropped("too long")
    if config.truncation == "keep_end":
        budget = min(prompt_limit, max(limit - longest, limit // 2))
        if len(prompt) > budget:
            prompt = fit_prompt(prompt, budget, config, num_prefix=num_prefix)
    elif len(prompt) > prompt_limit:
        raise Dropped("prompt too long")
    joined = []
    for row in rows:
        room = limit - len(prompt)
        trained = [False] * len(prompt) + row.trained[:room]
        if config.train_on == "all":
            trained = [True] * len(trained)
        trained[:1] = [False]  # nothing predicts the first token
        if True not in trained:
            raise Dropped("no completion token")
        joined.append(EncodedRow(prompt + row.ids[:room], trained))
    if len(joined) == 2 and joined[0].ids == joined[1].ids:
        raise Dropped("no difference")
    return joined, not whole


def flatten(rows: list[EncodedRow]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids int32, trained bool, length of each row int64) of many rows end to end."""
    ids = np.fromiter((token for row in rows for token in row.ids), np.int32)
    trained = np.fromiter((flag for row in rows for flag in row.trained), np.bool_)
    return ids, trained, np.array([len(row.ids) for row in rows], np.int64)
