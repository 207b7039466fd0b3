"""What a row becomes: one of five kinds of example."""

from typing import Any, Literal, NamedTuple, TypeAlias

from rlhf_jax.data.messages import ChatOptions, Content
from rlhf_jax.fields import documented

Kind: TypeAlias = Literal["text", "pairs", "unpaired", "prompts"]

ROWS: dict[str, int] = {"text": 1, "pairs": 2, "unpaired": 2}
"""Rows of tokens that an example of data that is there becomes."""


@documented
class TextExample(NamedTuple):
    """Something to imitate. `prompt` is None for a bare `text`, all of which is trained on."""

    prompt: Content | None
    completion: Content
    where: str
    chat: ChatOptions = ChatOptions()


@documented
class PairExample(NamedTuple):
    """A prompt with a better and a worse completion."""

    prompt: Content
    chosen: Content
    rejected: Content
    margin: float | None
    where: str
    chat: ChatOptions = ChatOptions()


@documented
class JudgedExample(NamedTuple):
    """A completion that was judged, and what it is compared with."""

    prompt: Content
    completion: Content
    label: bool
    """The completion is desirable."""
    where: str
    chat: ChatOptions = ChatOptions()
    unrelated: Content | None = None
    """A completion of another prompt; None: not dealt yet (`rlhf_jax.data.unpaired`)."""


@documented
class PromptExample(NamedTuple):
    """A prompt, with the other columns of its row for reward functions."""

    prompt: Content
    columns: dict[str, Any]
    where: str
    chat: ChatOptions = ChatOptions()


@documented
class TokenExample(NamedTuple):
    """Something to imitate that was tokenised elsewhere, with the very tokenizer of the run."""

    ids: list[int]
    trained: list[bool]
    where: str
    prompt: None = None


Example: TypeAlias = TextExample | PairExample | JudgedExample | PromptExample | TokenExample
