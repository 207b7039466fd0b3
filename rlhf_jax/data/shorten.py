"""Too long conversations lose whole turns, then the start of a message: never header or system."""

from collections.abc import Callable

from rlhf_jax.data.messages import Message
from rlhf_jax.data.tokenizer import FastTokenizer

_ATTEMPTS = 8  # cutting a text can merge its tokens otherwise, so that one cut may not be enough


def shorten_chat(
    prompt: list[Message],
    budget: int,
    tokenizer: FastTokenizer,
    measure: Callable[[list[Message]], int],
) -> list[Message] | None:
    """The prompt with its oldest turns left out.

    Args:
        prompt: the messages before an answer.
        budget: tokens of its rendering at most.
        tokenizer: to cut the text of a message.
        measure: tokens of the rendering of some messages.

    Returns:
        System messages and the last turns that fit. The last turn alone loses the start of its
        longest text. None: not even its headers fit.
    """
    lead = next(
        (
            index
            for index, message in enumerate(prompt)
            if message["role"] not in ("system", "developer")
        ),
        0,
    )
    system = prompt[:lead]
    turns = prompt[lead:]
    while (later := _next_turn(turns)) is not None:
        turns = turns[later:]
        if measure([*system, *turns]) <= budget:
            return [*system, *turns]
    return _cut_text(system, turns, budget, tokenizer, measure)


def _next_turn(messages: list[Message]) -> int | None:
    """Where the second turn begins: a turn is a question with all that answers it."""
    return next(
        (index for index in range(1, len(messages)) if messages[index]["role"] == "user"), None
    )


def _cut_text(
    system: list[Message],
    turns: list[Message],
    budget: int,
    tokenizer: FastTokenizer,
    measure: Callable[[list[Message]], int],
) -> list[Message] | None:
    place = max(range(len(turns)), key=lambda index: len(turns[index].get("content") or ""))
    for _ in range(_ATTEMPTS):
        excess = measure([*system, *turns]) - budget
        if excess <= 0:
            return [*system, *turns]
        ids = tokenizer.encode(turns[place].get("content") or "")
        if excess >= len(ids):
            return None
        text = tokenizer.decode(ids[excess:]).lstrip("\ufffd")  # half a character
        turns = [*turns[:place], {**turns[place], "content": text}, *turns[place + 1 :]]
    return None
