"""What messages say of themselves: answers not to train on, and chat templates applied before."""

import functools

from rlhf_jax.data.chat import variables_read
from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.errors import BadRow, Dropped
from rlhf_jax.data.kinds import Example, JudgedExample, PairExample, TextExample, TokenExample
from rlhf_jax.data.messages import TRAIN, ChatOptions, Content, Message
from rlhf_jax.data.templates import PROBE, apply_template
from rlhf_jax.data.tokenizer import FastTokenizer
from rlhf_jax.data.turns import Note, is_trained

RENDERED = "rendered before"
NO_ANSWER = "no answer to train"
UNREAD = "unread variable"
"""Kinds of notes; `rlhf_jax.data.notes` puts them into words."""
_ASKING = ("user", "system", "developer")


def check_marks(example: Example, config: DataConfig) -> None:
    """Whether what is left to train on is what the options ask for.

    Raises:
        BadRow: an answer is marked as not trained on, and `data.train_on` says that everything is.
        Dropped: the marks leave no answer to train on.
    """
    completions = _completions(example)
    if not completions:
        return
    if config.train_on == "all" and any(
        message.get(TRAIN) is False for message in _messages(example)
    ):
        raise BadRow(
            "train_on",
            "an answer is marked as not to be trained on (weight: 0 or the like), and "
            "data.train_on is 'all': set it to 'completion'",
        )
    if not all(any(is_trained(message) for message in completion) for completion in completions):
        raise Dropped("no answer to train on")


def message_notes(example: Example, tokenizer: FastTokenizer) -> list[Note]:
    """Notes on the messages of an example: at most one of a kind."""
    messages = _messages(example)
    notes = []
    if any(message.get(TRAIN) is True for message in messages):
        notes.append(Note(NO_ANSWER, ""))
    for message in messages:
        found = _found_marks(message, tokenizer)
        if found:
            notes.append(Note(RENDERED, repr(found)))
            break
    unread = _unread_variables(example, tokenizer)
    return [*notes, Note(UNREAD, " and ".join(map(repr, unread)))] if unread else notes


def _unread_variables(example: Example, tokenizer: FastTokenizer) -> list[str]:
    """Names of `chat_template_kwargs` that the chat template of a conversation never reads."""
    if (
        isinstance(example, TokenExample)
        or not isinstance(example.prompt, list)
        or not example.chat.variables
    ):
        return []
    read = variables_read(tokenizer.template_for(example.chat.tools))
    return [name for name in example.chat.variables if name not in read]


def _messages(example: Example) -> list[Message]:
    prompt = example.prompt
    head = prompt if isinstance(prompt, list) else []
    return [*head, *(message for completion in _completions(example) for message in completion)]


def _completions(example: Example) -> list[list[Message]]:
    """The conversations that are trained on; none where they are plain texts."""
    contents: list[Content] = []
    if isinstance(example, TextExample):
        contents = [example.completion]
    elif isinstance(example, PairExample):
        contents = [example.chosen, example.rejected]
    elif isinstance(example, JudgedExample):
        contents = [example.completion]
    return [content for content in contents if isinstance(content, list)]


def _found_marks(message: Message, tokenizer: FastTokenizer) -> str:
    """What the template writes around messages and this text holds already; empty: nothing."""
    text = message.get("content") or ""
    if message["role"] not in _ASKING or not text:
        return ""
    special, header = _template_marks(tokenizer)
    found = next((mark for mark in special if mark in text), "")
    return found or (header if header and text.rstrip().endswith(header) else "")


@functools.lru_cache(maxsize=8)
def _template_marks(tokenizer: FastTokenizer) -> tuple[tuple[str, ...], str]:
    """(special tokens that open a question, how the template opens an answer), where it takes one.

    Nothing where it refuses a lone question. (`<think>` behind the question is no sign: people ask
    about it.)
    """
    try:
        text = apply_template(
            tokenizer,
            [{"role": "user", "content": PROBE}],
            ChatOptions(),
            add_generation_prompt=True,
        )
    except BadRow:
        return (), ""
    before, _, behind = text.rpartition(PROBE)
    added = tokenizer.backend.get_added_tokens_decoder().values()
    return tuple(
        token.content for token in added if token.special and token.content in before
    ), behind.strip()
