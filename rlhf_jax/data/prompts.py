"""Prompts with random access, for algorithms that sample their own completions.

The order of an epoch is a pure function of (seed, epoch) and a batch one of its indices, so a
position in the data is one number.

`make_prompt_loader` tokenises and checks the prompts; `PromptLoader.take` is what a run asks for.
"""

import functools
import hashlib
import logging
from collections import Counter
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.data.batching import bucket_for, choose_buckets, epoch_order
from rlhf_jax.data.chat import template_source
from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.encode import encode_rows, fit_prompt, num_prefix, render_prompt
from rlhf_jax.data.errors import BadRow, DataError, Dropped
from rlhf_jax.data.examples import ExampleSet, Split, load_examples
from rlhf_jax.data.kinds import PromptExample
from rlhf_jax.data.marks import message_notes
from rlhf_jax.data.messages import Content, Message
from rlhf_jax.data.notes import Counted, count_notes, warn, warn_shortened
from rlhf_jax.data.shorten import shorten_chat
from rlhf_jax.data.spans import warn_foreign_stop
from rlhf_jax.data.tokenize import data_fingerprint
from rlhf_jax.data.tokenizer import FastTokenizer
from rlhf_jax.data.turns import Rendered
from rlhf_jax.fields import documented

logger = logging.getLogger(__name__)

RESERVED = ("prompts", "completions", "completion_ids")
"""Arguments of a reward function; a column cannot have these names."""


@documented
class PromptBatch(NamedTuple):
    """Some prompts, as tokens for the sampler and as text with their columns for the rewards."""

    indices: np.ndarray
    """int64 [P]: which prompts of the split."""
    tokens: np.ndarray
    """int32 [P, Tp], right-padded."""
    lengths: np.ndarray
    """int32 [P], at least 1."""
    prompts: list[Content]
    """Texts or conversations, as reward functions get them."""
    columns: dict[str, list[Any]]
    """The other columns of the rows, each of length P; None where a row lacks one."""


def make_prompt_loader(
    config: DataConfig,
    tokenizer: FastTokenizer,
    *,
    max_prompt_len: int,
    seed: int,
    split: Split = "train",
    batch_size: int | None = None,
) -> "PromptLoader":
    """Reads and tokenises the prompts of a split.

    Conversations go through the chat template, which opens the assistant's turn. A prompt of more
    than `max_prompt_len` tokens is left out and counted; under `truncation="keep_end"` it loses its
    start, a conversation whole turns.

    Args:
        config: all data options. `chat_template`, when set, replaces the tokenizer's; `buckets` are
          widths of the prompts.
        tokenizer: see `load_tokenizer`.
        max_prompt_len: tokens of a prompt at most.
        seed: of the order.
        split: "train" or "eval".
        batch_size: prompts that will usually be taken at once; chooses the widths. None: one.

    Raises:
        DataError: see `load_examples`; an option that has no meaning for prompts; a column named
            like an argument of reward functions; or no prompt fits.
    """
    _check_options(config, max_prompt_len)
    if config.chat_template is not None:
        tokenizer = tokenizer.with_chat_template(template_source(config.chat_template))
    examples = load_examples(config, kind="prompts", split=split)
    if any(isinstance(example.prompt, list) for example in examples.rows):
        warn_foreign_stop(tokenizer)
    identity = f"{data_fingerprint(config, tokenizer, 'prompts', split)} {max_prompt_len}"
    kept, tokens, skipped, shortened, notes = _tokenize(examples, tokenizer, config, max_prompt_len)
    logger.info(
        "%s (%s): %d prompts, %d shortened, left out: %s",
        *(examples.name, split, len(kept), shortened),
        ", ".join(f"{reason} {count}" for reason, count in sorted(skipped.items())) or "none",
    )
    return PromptLoader(
        kept,
        tokens,
        config,
        tokenizer,
        seed=seed,
        batch_size=batch_size or 1,
        max_prompt_len=max_prompt_len,
        skipped=skipped,
        shortened=shortened,
        notes=notes,
        fingerprint=hashlib.sha256(identity.encode()).hexdigest(),
    )


class PromptLoader:
    """The prompts of a split. Stateless: which prompts come when follows from the seed alone.

    Attributes:
        num_examples: prompts in the split.
        skipped: rows left out, by reason.
        shortened: prompts cut to the length limit.
        notes: what the user should know about them, by kind (`rlhf_jax.data.notes`).
        fingerprint: hash of data, tokenizer and the options that decide about tokens.
        tokenizer: the one in use (with the chat template of the config).
        buckets: widths Tp that batches have, ascending; few, as each is a shape to compile.
    """

    def __init__(
        self,
        examples: list[PromptExample],
        tokens: list[list[int]],
        config: DataConfig,
        tokenizer: FastTokenizer,
        *,
        seed: int,
        batch_size: int,
        max_prompt_len: int,
        skipped: dict[str, int],
        shortened: int,
        notes: dict[str, Counted],
        fingerprint: str,
    ):
        self.num_examples = len(examples)
        self.skipped = skipped
        self.shortened = shortened
        self.notes = notes
        self.seed = seed
        self.fingerprint = fingerprint
        self.tokenizer = tokenizer
        self._examples = examples
        self._shuffle = config.shuffle
        self._lengths = np.array([len(row) for row in tokens], np.int32)
        self._offsets = np.concatenate([[0], np.cumsum(self._lengths, dtype=np.int64)])
        self._tokens = np.fromiter(
            (token for row in tokens for token in row), np.int32, self._offsets[-1]
        )
        self._names = list(dict.fromkeys(name for example in examples for name in example.columns))
        self._epoch = functools.lru_cache(maxsize=2)(self._plan_epoch)
        self.buckets = self._choose_buckets(config, batch_size, max_prompt_len)

    @property
    def nbytes(self) -> int:
        """Of the tokenised prompts."""
        return self._tokens.nbytes + self._offsets.nbytes

    def order(self, epoch: int) -> np.ndarray:
        """The prompts of an epoch, each once: int64 [num_examples], as stored or shuffled."""
        return self._epoch(epoch).copy()

    def indices(self, start: int, count: int) -> np.ndarray:
        """Prompts at places `start` to `start + count - 1` of epochs in a row: int64 [count]."""
        places = np.arange(start, start + count)
        epochs, within = np.divmod(places, self.num_examples)
        return np.array(
            [
                self._epoch(epoch)[place]
                for epoch, place in zip(epochs.tolist(), within, strict=True)
            ],
            np.int64,
        )

    def take(self, indices: np.ndarray) -> PromptBatch:
        """Some prompts, in the order asked for.

        Args:
            indices: int [P], each from 0 to `num_examples` - 1; any may occur twice.

        Raises:
            IndexError: an index out of range.
        """
        indices = np.asarray(indices, np.int64)
        if indices.size == 0 or indices.min() < 0 or indices.max() >= self.num_examples:
            raise IndexError(
                f"prompts {indices.tolist()} are not from 0 to {self.num_examples - 1}"
            )
        lengths = self._lengths[indices]
        tokens = np.full(
            (len(indices), bucket_for(int(lengths.max()), self.buckets)),
            self.tokenizer.pad_id,
            np.int32,
        )
        for row, (index, length) in enumerate(zip(indices, lengths, strict=True)):
            start = self._offsets[index]
            tokens[row, :length] = self._tokens[start : start + length]
        chosen = [self._examples[index] for index in indices.tolist()]
        columns = {name: [example.columns.get(name) for example in chosen] for name in self._names}
        return PromptBatch(
            indices, tokens, lengths, [example.prompt for example in chosen], columns
        )

    def _plan_epoch(self, epoch: int) -> np.ndarray:
        if not self._shuffle:
            return np.arange(self.num_examples)
        return epoch_order(self.num_examples, seed=self.seed, epoch=epoch)

    def _choose_buckets(
        self, config: DataConfig, batch_size: int, max_prompt_len: int
    ) -> tuple[int, ...]:
        """Few widths that fit the batches of the first epoch well and any batch at all."""
        longest = int(self._lengths.max())
        if config.buckets:
            return config.buckets[: config.buckets.index(bucket_for(longest, config.buckets)) + 1]
        lengths = self._lengths[self._epoch(0)]
        widest = np.append(
            np.maximum.reduceat(lengths, np.arange(0, len(lengths), batch_size)), longest
        )
        return choose_buckets(
            widest, config.num_buckets, multiple=config.pad_multiple, limit=max_prompt_len
        )


def next_prompts(
    loader: PromptLoader, start: int, wanted: int, *, retired: Collection[int] = ()
) -> tuple[np.ndarray, int]:
    """The next prompts that are not retired.

    Once some are retired no prompt comes twice: what is drawn ends where it would, and so shrinks
    when fewer are left. The epochs stay whole: the prompt that ended a draw is the first of the
    next one.

    Args:
        loader: of all prompts.
        start: place in all epochs in a row.
        wanted: prompts to draw.
        retired: prompts that are not asked again.

    Returns:
        (int64 [wanted or fewer], the place after them); none when all are retired.
    """
    if not retired:
        return loader.indices(start, wanted), start + wanted
    count = loader.num_examples
    left = np.ones(count, bool)
    left[list(retired)] = False
    drawn = np.zeros(count, bool)
    found = [np.zeros(0, np.int64)]
    place = start
    while wanted and left.any():
        epoch, within = divmod(place, count)
        order = loader.order(epoch)[within:]
        candidates = np.flatnonzero(left[order])[:wanted]
        repeated = np.flatnonzero(drawn[order[candidates]])
        fresh = order[candidates[: repeated[0]] if len(repeated) else candidates]
        drawn[fresh] = True
        found.append(fresh)
        wanted -= len(fresh)
        if len(repeated):
            place += int(candidates[repeated[0]])
            break
        place += int(candidates[-1]) + 1 if not wanted else len(order)
    return np.concatenate(found), place


def _check_options(config: DataConfig, max_prompt_len: int) -> None:
    """Refuses what would do nothing: prompts have no answers to pack, train on or end."""
    if max_prompt_len < 1:
        raise DataError(f"max_prompt_len {max_prompt_len} must be at least 1")
    for option, is_set in (
        ("packing", config.packing),
        ("train_on 'all'", config.train_on == "all"),
        ("append_eos false", not config.append_eos),
    ):
        if is_set:
            raise DataError(f"data.{option} is for rows with answers: prompts have none")
    if config.buckets and config.buckets[-1] < max_prompt_len:
        raise DataError(
            f"data.buckets {list(config.buckets)} end below max_prompt_len {max_prompt_len}: the "
            "last must reach it"
        )


def _tokenize(
    examples: ExampleSet, tokenizer: FastTokenizer, config: DataConfig, max_prompt_len: int
) -> tuple[list[PromptExample], list[list[int]], dict[str, int], int, dict[str, Counted]]:
    """(prompts that fit, their tokens, rows left out by reason, how many were shortened, notes)."""
    skipped: Counter[str] = Counter(examples.skipped)
    bad: list[tuple[str, BadRow]] = []
    rendered: list[Rendered] = []
    readable: list[PromptExample] = []
    for example in examples.rows:
        assert isinstance(example, PromptExample)
        try:
            _check_columns(example)
            rendered.append(render_prompt(example, tokenizer))
            readable.append(example)
        except BadRow as error:
            bad.append((example.where, error))
    _report(bad, config, examples.name)
    skipped.update(error.reason for _, error in bad)
    kept: list[PromptExample] = []
    tokens: list[list[int]] = []
    shortened = 0
    for example, (prompt, _) in zip(
        readable, encode_rows(rendered, tokenizer, config), strict=True
    ):
        try:
            fitted = _fit(example, prompt, max_prompt_len, tokenizer, config)
        except Dropped as reason:
            skipped[reason.args[0]] += 1
            continue
        shortened += fitted != prompt
        kept.append(example)
        tokens.append(fitted)
    noted = (
        (example.where, (*row.notes, *message_notes(example, tokenizer)))
        for example, row in zip(readable, rendered, strict=True)
    )
    notes = count_notes((where, note) for where, found in noted for note in found)
    warn(notes, examples.name)
    warn_shortened(shortened, len(kept), examples.name, f"rollout.max_prompt_len {max_prompt_len}")
    _warn_left_out(skipped["prompt too long"], len(readable), examples.name, max_prompt_len)
    if not kept:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(skipped.items()))
        raise DataError(
            f"no prompt of {examples.name} can be used with max_prompt_len {max_prompt_len} and "
            f"truncation {config.prompt_truncation!r}: {reasons}"
        )
    return kept, tokens, dict(skipped), shortened, notes


def _warn_left_out(count: int, total: int, name: str, max_prompt_len: int) -> None:
    if count:
        logger.warning(
            "%s: %d of %d prompts (%.1f %%) left out: longer than rollout.max_prompt_len %d "
            "(data.truncation=keep_end cuts them)",
            *(name, count, total, 100 * count / total, max_prompt_len),
        )


def _fit(
    example: PromptExample,
    prompt: list[int],
    limit: int,
    tokenizer: FastTokenizer,
    config: DataConfig,
) -> list[int]:
    """The prompt within the limit; a conversation loses whole turns.

    Raises:
        Dropped: it does not fit.
    """
    if (
        not isinstance(example.prompt, list)
        or config.prompt_truncation != "keep_end"
        or len(prompt) <= limit
    ):
        return fit_prompt(prompt, limit, config, num_prefix=num_prefix(prompt, tokenizer))

    def tokens_of(messages: list[Message]) -> list[int]:
        return tokenizer.encode(render_prompt(example._replace(prompt=messages), tokenizer).prompt)

    try:
        shorter = shorten_chat(
            example.prompt, limit, tokenizer, lambda messages: len(tokens_of(messages))
        )
    except BadRow:  # the template takes the conversation as a whole only
        shorter = None
    if shorter is None:
        raise Dropped("prompt too long")
    return tokens_of(shorter)


def _report(bad: list[tuple[str, BadRow]], config: DataConfig, name: str) -> None:
    if not bad:
        return
    where, error = bad[0]
    if config.on_error == "strict":
        raise DataError(
            f"{where}: {error.detail} (bad row 1 of {len(bad)}; data.on_error=skip leaves them out)"
        )
    logger.warning(
        "%s: %d bad rows left out; the first: %s: %s", name, len(bad), where, error.detail
    )


def _check_columns(example: PromptExample) -> None:
    taken = [name for name in RESERVED if name in example.columns]
    if taken:
        raise BadRow(
            "reserved column",
            f"column {taken[0]!r} is an argument of reward functions: rename it with data.columns",
        )
