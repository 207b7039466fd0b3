"""Turns with an environment in between (tools, games, users), as one sampler.

What the environment answers is present in a row and was not chosen by the policy: it is read, but
carries no loss. The online loop cannot tell such a sampler from another.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import numpy as np

from rlhf_jax.rollout.engine import GenerationStats
from rlhf_jax.rollout.sampler import Prompts, Sampled, Sampler
from rlhf_jax.rollout.sampling import SamplingParams
from rlhf_jax.types import Key, Params, Rollout

Message: TypeAlias = Mapping[str, Any]
Conversation: TypeAlias = list[Message]


class Environment(Protocol):
    """Answers between two turns. Runs on the host; an exception ends the run."""

    def reply(
        self, conversations: Sequence[Conversation], columns: Mapping[str, Sequence[Any]]
    ) -> Sequence[Message | None]:
        """What the policy reads next in each open conversation.

        Args:
          conversations: prompt, and turns so far; the last message is the policy's.
          columns: of the data, a value per conversation.

        Returns:
          A message ({"role", "content"}) each; None: the conversation is over.
        """
        ...


class Texts(Protocol):
    """What is needed of a tokenizer (`rlhf_jax.data.FastTokenizer`)."""

    pad_id: int

    def decode_answer(self, ids: list[int], skip_special_tokens: bool = True) -> str: ...

    def decode(self, ids: list[int]) -> str: ...

    def encode(self, text: str) -> list[int]: ...

    def apply_chat_template(
        self, messages: Any, add_generation_prompt: bool = False, **options: Any
    ) -> str: ...


class Row(NamedTuple):
    """One conversation while it is sampled."""

    tokens: list[int]
    chosen: list[bool]
    logps: list[float]
    turns: Conversation
    """After the prompt."""
    is_open: bool = True
    truncated: bool = False


class Turn(NamedTuple):
    """Rows so far as the prompts of the next turn."""

    tokens: np.ndarray
    lengths: np.ndarray
    prompts: Sequence[Any]
    columns: Mapping[str, Sequence[Any]]


def with_environment(
    sampler: Sampler,
    environment: Environment,
    tokenizer: Texts,
    *,
    max_turns: int,
    max_reply_len: int = 64,
) -> Sampler:
    """Turns of `sampler` with `environment` in between, as one sampler.

    A turn ends where a completion ends. The reply is rendered by the chat template (as the text
    that it adds behind the turns so far) for conversations, and as it is for plain prompts. A row
    ends when the environment says so, after `max_turns`, or when a turn reaches its length limit.

    Args:
      sampler: completes each turn.
      environment: replies.
      tokenizer: of the policy.
      max_turns: turns of the policy at most.
      max_reply_len: tokens of a reply that are kept, the first ones.

    Returns:
      A sampler; its rows have room for `max_turns` completions and the replies between them.

    Raises:
      ValueError: fewer than one turn, or no room for a reply.
    """
    for name, value in (("max_turns", max_turns), ("max_reply_len", max_reply_len)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    return _Turns(sampler, environment, tokenizer, max_turns, max_reply_len)


class _Turns:
    """The sampler of `with_environment`."""

    def __init__(
        self,
        sampler: Sampler,
        environment: Environment,
        tokenizer: Texts,
        max_turns: int,
        max_reply_len: int,
    ) -> None:
        self._sampler = sampler
        self._environment = environment
        self._tokenizer = tokenizer
        self._max_turns = max_turns
        self._max_reply_len = max_reply_len
        self.width = sampler.width + (max_turns - 1) * (sampler.max_scored + max_reply_len)
        self.max_scored = max_turns * sampler.max_scored

    def __call__(
        self,
        params: Params,
        prompts: Prompts,
        key: Key,
        *,
        group_size: int,
        sampling: SamplingParams | None = None,
    ) -> Sampled:
        """See `Sampler`."""
        repeat = self._repeated(prompts, group_size)
        rows = [
            Row(ids[:length].tolist(), [False] * int(length), [0.0] * int(length), [])
            for ids, length in zip(repeat.tokens, repeat.lengths, strict=True)
        ]
        tokens = slot_steps = 0
        seconds = 0.0
        for turn in range(self._max_turns):
            places = [place for place, row in enumerate(rows) if row.is_open]
            if not places:
                break
            sampled = self._sampler(
                params,
                self._as_prompts([rows[place] for place in places], repeat, places),
                _key_of_turn(key, turn, places),
                group_size=1,
                sampling=sampling,
            )
            for place, row in zip(places, _rows_of(sampled.rollout), strict=True):
                rows[place] = self._extended(rows[place], row)
            tokens += sampled.stats.tokens
            slot_steps += sampled.stats.slot_steps
            seconds += sampled.stats.seconds
            if turn + 1 < self._max_turns:
                self._answer(rows, repeat)
        stats = GenerationStats(tokens, slot_steps, tokens / max(slot_steps, 1), seconds)
        return Sampled(self._rollout(rows), stats, [row.turns for row in rows])

    def _repeated(self, prompts: Prompts, group_size: int) -> Turn:
        """A row per completion."""
        return Turn(
            np.repeat(np.asarray(prompts.tokens), group_size, axis=0),
            np.repeat(np.asarray(prompts.lengths), group_size),
            [prompt for prompt in prompts.prompts for _ in range(group_size)],
            {
                name: [value for value in values for _ in range(group_size)]
                for name, values in prompts.columns.items()
            },
        )

    def _as_prompts(self, rows: Sequence[Row], repeat: Turn, places: Sequence[int]) -> Turn:
        lengths = np.array([len(row.tokens) for row in rows], np.int32)
        tokens = np.full((len(rows), int(lengths.max())), self._tokenizer.pad_id, np.int32)
        for place, row in enumerate(rows):
            tokens[place, : len(row.tokens)] = row.tokens
        return Turn(tokens, lengths, [repeat.prompts[place] for place in places], {})

    def _extended(self, row: Row, new: Row) -> Row:
        """The row with what the policy chose in this turn."""
        text = self._tokenizer.decode_answer(new.tokens)
        return row._replace(
            tokens=row.tokens + new.tokens,
            chosen=row.chosen + [True] * len(new.tokens),
            logps=row.logps + new.logps,
            turns=[*row.turns, {"role": "assistant", "content": text}],
            is_open=not new.truncated,
            truncated=new.truncated,
        )

    def _answer(self, rows: list[Row], repeat: Turn) -> None:
        """Lets the environment answer in every open conversation."""
        places = [place for place, row in enumerate(rows) if row.is_open]
        if not places:
            return
        whole = [[*_opening(repeat.prompts[place]), *rows[place].turns] for place in places]
        columns = {
            name: [values[place] for place in places] for name, values in repeat.columns.items()
        }
        replies = self._environment.reply(whole, columns)
        if len(replies) != len(places):
            raise ValueError(
                f"the environment gave {len(replies)} replies to {len(places)} conversations"
            )
        for place, conversation, reply in zip(places, whole, replies, strict=True):
            if reply is None:
                rows[place] = rows[place]._replace(is_open=False)
                continue
            row = rows[place]
            ids = self._reply_ids(repeat.prompts[place], conversation, reply, row.tokens[-1])
            rows[place] = row._replace(
                tokens=row.tokens + ids,
                chosen=row.chosen + [False] * len(ids),
                logps=row.logps + [0.0] * len(ids),
                turns=[*row.turns, reply],
            )

    def _reply_ids(
        self, prompt: Any, conversation: Conversation, reply: Message, last: int
    ) -> list[int]:
        """Tokens of a reply, up to where the next turn of the policy begins."""
        text = str(reply["content"])
        if not isinstance(prompt, str):
            text = self._rendered_reply(conversation, reply, last)
        ids = self._tokenizer.encode(text)[: self._max_reply_len]
        if not ids:
            raise ValueError(f"the environment's reply {reply!r} has no tokens; give None to end")
        return ids

    def _rendered_reply(self, conversation: Conversation, reply: Message, last: int) -> str:
        """What the chat template writes behind the policy's last turn: its end as far as it was not
        sampled, the reply, and the header of the next turn."""
        whole = self._tokenizer.apply_chat_template(
            [*conversation, reply], add_generation_prompt=True
        )
        answer = str(conversation[-1]["content"])
        opened = self._tokenizer.apply_chat_template(conversation[:-1], add_generation_prompt=True)
        # Behind the header that opened the turn; some templates write another one in retrospect,
        # then the answer itself is looked for.
        start = len(opened) if whole.startswith(opened + answer) else whole.rfind(answer)
        if start < 0 or (not answer and start != len(opened)):
            raise ValueError(
                "the chat template does not show the last turn as it was sampled, so a reply "
                "cannot follow its tokens"
            )
        # The token that ended the turn is part of the row already.
        return whole[start + len(answer) :].removeprefix(self._tokenizer.decode([last]))

    def _rollout(self, rows: Sequence[Row]) -> Rollout:
        shape = (len(rows), self.width)
        tokens = np.full(shape, self._tokenizer.pad_id, np.int32)
        mask = np.zeros(shape, bool)
        chosen = np.zeros(shape, bool)
        logps = np.zeros(shape, np.float32)
        for place, row in enumerate(rows):
            length = len(row.tokens)
            tokens[place, :length] = row.tokens
            mask[place, :length] = True
            chosen[place, :length] = row.chosen
            logps[place, :length] = row.logps
        arrays: list[Any] = [tokens, mask, chosen, logps, np.array([r.truncated for r in rows])]
        return Rollout(*arrays)


def _rows_of(rollout: Rollout) -> list[Row]:
    """The chosen tokens of each row."""
    fields = [np.asarray(x) for x in rollout]
    return [
        Row(ids[own].tolist(), [], logps[own].tolist(), [], truncated=bool(truncated))
        for ids, _, own, logps, truncated in zip(*fields, strict=True)
    ]


def _opening(prompt: Any) -> Conversation:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def _key_of_turn(key: Key, turn: int, places: Sequence[int]) -> Key:
    """One key a turn; or one a row and turn, where rows have keys of their own."""
    fold: Callable[[Key, int], Key] = jax.random.fold_in
    if key.ndim == 0:
        return fold(key, turn)
    return jax.vmap(fold, (0, None))(key[np.asarray(places)], turn)
