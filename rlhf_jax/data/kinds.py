"""What a row becomes: one of four kinds of example."""

from typing import Any, Literal, NamedTuple, TypeAlias

from rlhf_jax.data.messages import ChatOptions, Content
from rlhf_jax.fields import documented

Kind: TypeAlias = Literal["text", "pairs", "prompts"]


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


Example: TypeAlias = TextExample | PairExample | PromptExample | TokenExample
