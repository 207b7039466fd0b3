"""`complete`: texts in, texts out. The command `generate` uses the same functions."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax.data import BadRow, DataConfig, DataError, FastTokenizer, PromptExample
from rlhf_jax.data.encode import encode_rows, render_prompt
from rlhf_jax.data.formats import make_example
from rlhf_jax.data.marks import message_notes
from rlhf_jax.data.notes import count_notes, warn
from rlhf_jax.data.wrap import wrap_examples
from rlhf_jax.fields import documented
from rlhf_jax.rollout import GenerationStats, Generator, SamplingParams, make_generator
from rlhf_jax.runs.compilation import keep_programs
from rlhf_jax.runs.load import LoadedModel
from rlhf_jax.types import Model

SLOTS = 64
"""Completions that decode at the same time."""
MULTIPLE = 32
"""Prompts are padded to a multiple of this, so that another prompt need not be another program."""
_KEPT = 8
"""Compiled generators that are kept for the next call."""


@documented
class Completions(NamedTuple):
    """Completions of P prompts, n of each, one prompt's behind each other: B = P * n."""

    texts: list[str]
    """Without the stop that ended each."""
    logps: np.ndarray
    """float32 [B]: log-probability of the whole completion, its stop included, at the temperature
    that it was sampled at, nats."""
    truncated: np.ndarray
    """bool [B]: ended by `max_new_tokens`, not by a stop."""
    tokens: list[list[int]]
    """Ids of each, the stop included."""
    stats: GenerationStats
    """What it cost."""


def complete(
    loaded: LoadedModel,
    prompts: str | Sequence[Any],
    *,
    n: int = 1,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    stop: str | Sequence[str] = (),
    seed: int = 0,
    chat: bool = False,
) -> Completions:
    """Lets a model go on from texts, or answer conversations.

    ``rlhf_jax.complete(rlhf_jax.load("runs/grpo"), ["2+2="], stop=["\\n"], n=4).texts``

    Programs are compiled at the first call and kept: for a number of samples, a length limit, and
    a width of prompts (in steps of 32 tokens).

    Args:
      loaded: from `load`; or (model, params, tokenizer).
      prompts: texts; conversations, lists of {"role": "user", "content": ...}, around which the
        chat template goes; or one of either.
      n: completions per prompt.
      max_new_tokens: of a completion at most, its stop included.
      temperature: of sampling; 0 is greedy.
      top_p, top_k, min_p: see `SamplingParams`.
      stop: texts or tokens that end a completion, besides the tokenizer's own stops.
      seed: of the draws: the same seed gives the same completions.
      chat: each text is a question: put the chat template around it.

    Returns:
      `Completions`, prompt by prompt.

    Raises:
      ValueError: no prompts, or an argument out of range, in one line.
      DataError: a prompt that is none, or that the chat template refuses.
    """
    loaded = LoadedModel(*loaded)
    single = isinstance(prompts, str) or (
        isinstance(prompts, Sequence) and len(prompts) > 0 and isinstance(prompts[0], Mapping)
    )
    contents = [prompts] if single else list(prompts)
    tokenizer = with_stops(loaded.tokenizer, (stop,) if isinstance(stop, str) else tuple(stop))
    encoded = encode_prompts(examples_of(contents, chat=chat), tokenizer, "the prompts")
    return sample_prompts(
        loaded._replace(tokenizer=tokenizer),
        encoded,
        n=n,
        max_new_tokens=max_new_tokens,
        sampling=SamplingParams(temperature, top_p=top_p, top_k=top_k, min_p=min_p),
        seed=seed,
    )


@functools.lru_cache(maxsize=_KEPT)
def with_stops(tokenizer: FastTokenizer, stop: tuple[str, ...]) -> FastTokenizer:
    """The tokenizer with further stops; the same object for the same ones, for which programs are
    kept.

    Raises:
      ValueError: an empty text, which would end everything at once.
    """
    if "" in stop:
        raise ValueError(
            "stop has an empty text, which would end every completion at once; leave it out"
        )
    return tokenizer.with_stops(stop)


def examples_of(contents: Sequence[Any], *, chat: bool) -> list[Any]:
    """Texts and conversations as prompts.

    Args:
      contents: texts, or lists of messages.
      chat: make texts conversations.

    Raises:
      DataError: one of them is neither.
    """
    if not contents:
        raise ValueError("prompts is empty: give at least one text or conversation")
    examples = []
    for number, content in enumerate(contents, start=1):
        where = f"prompt {number}"
        if content == "":
            raise DataError(f"{where} is empty: write at least one character")
        try:
            examples.append(make_example({"prompt": content}, "prompt", "prompts", where))
        except BadRow as error:
            raise DataError(f"{where}: {error.detail}") from None
    return wrap_examples(examples, DataConfig(path="prompts", conversational=chat))


def encode_prompts(
    examples: Sequence[PromptExample], tokenizer: FastTokenizer, name: str
) -> list[list[int]]:
    """Prompts as tokens, made as training makes them.

    Args:
      examples: texts or conversations.
      tokenizer: of the model.
      name: of all of them, for warnings.

    Raises:
      DataError: one that the chat template refuses, or without a token.
    """
    rendered = []
    for example in examples:
        try:
            rendered.append(render_prompt(example, tokenizer))
        except BadRow as error:
            raise DataError(f"{example.where}: {error.detail}") from None
    noted = [
        (example.where, note) for example in examples for note in message_notes(example, tokenizer)
    ]
    warn(count_notes(noted), name)
    encoded = [tokens for tokens, _ in encode_rows(rendered, tokenizer, DataConfig(path=name))]
    for example, tokens in zip(examples, encoded, strict=True):
        if not tokens:
            raise DataError(f"{example.where}: the prompt has no tokens")
    return encoded


def sample_prompts(
    loaded: LoadedModel,
    encoded: Sequence[Sequence[int]],
    *,
    n: int,
    max_new_tokens: int,
    sampling: SamplingParams,
    seed: int,
) -> Completions:
    """Completions of prompts in tokens. Arguments as for `complete`."""
    for option, value in (("n", n), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise ValueError(f"{option}={value} must be at least 1")
    model = loaded.model
    tokenizer = loaded.tokenizer
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the model embeds "
            f"vocab_size={model.config.vocab_size}: they do not belong together"
        )
    lengths = np.array([len(tokens) for tokens in encoded], np.int32)
    longest = int(lengths.max())
    # Learned positions end somewhere: padding must not reach beyond them.
    room = max(longest, model.config.max_position - max_new_tokens)
    width = min(-(-longest // MULTIPLE) * MULTIPLE, room)
    rows = np.zeros((len(encoded), width), np.int32)
    for row, tokens in zip(rows, encoded, strict=True):
        row[: len(tokens)] = tokens
    generator = _generator(model, tokenizer, n, max_new_tokens, width)
    with keep_programs("auto"):
        rollout, stats = generator(loaded.params, rows, lengths, jax.random.key(seed), sampling)
    ids = [
        row[chosen].tolist()
        for row, chosen in zip(rollout.tokens, np.asarray(rollout.completion_mask), strict=True)
    ]
    return Completions(
        [tokenizer.decode_answer(row) for row in ids],
        np.asarray(rollout.logps).sum(axis=1),
        np.asarray(rollout.truncated),
        ids,
        stats,
    )


@functools.lru_cache(maxsize=_KEPT)
def _generator(
    model: Model, tokenizer: FastTokenizer, n: int, max_new_tokens: int, width: int
) -> Generator:
    """What samples; kept, since it holds the compiled programs."""
    return make_generator(
        model,
        mesh=None,
        max_new_tokens=max_new_tokens,
        eos_ids=tokenizer.stop_ids,
        pad_id=tokenizer.pad_id,
        group_size=n,
        prompt_buckets=(width,),
        slots=SLOTS,
        missing_ids=tokenizer.missing_ids(model.config.vocab_size),
        string_end=tokenizer.string_end(),
    )
