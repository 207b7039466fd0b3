"""Batches with random access: `loader.batch(step)` is a pure function, so resuming is free.

`make_loader` reads and tokenises a split (`tokenize`); a `Loader` then holds its rows and is asked
for batches by their number. Start with `Loader.batch`: an epoch is planned once (order, buckets or
packing, from `batching`), the batch's rows are looked up in the plan, and `_fill` lays them out.
"""

import functools
import logging
import pathlib
from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal, TypeAlias

import numpy as np

from rlhf_jax.data.batching import (
    bucket_for,
    choose_buckets,
    epoch_batches,
    pack,
    scored_columns,
)
from rlhf_jax.data.chat import template_source
from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.errors import DataError
from rlhf_jax.data.examples import Split
from rlhf_jax.data.kinds import ROWS
from rlhf_jax.data.rooms import EpochRooms, Packing, Sequences, pays, shared_prompts
from rlhf_jax.data.token_rows import TokenizedSet
from rlhf_jax.data.tokenize import data_fingerprint, tokenize_split
from rlhf_jax.data.tokenizer import FastTokenizer
from rlhf_jax.data.unpaired import balance
from rlhf_jax.sharding.processes import leader_first
from rlhf_jax.types import PairBatch, Room, TokenBatch, UnpairedBatch

logger = logging.getLogger(__name__)

OfflineKind: TypeAlias = Literal["text", "pairs", "unpaired"]
OfflineBatch: TypeAlias = TokenBatch | PairBatch | UnpairedBatch


def make_loader(
    config: DataConfig,
    tokenizer: FastTokenizer,
    *,
    kind: OfflineKind,
    batch_size: int,
    seed: int,
    split: Split = "train",
    cache_dir: str | pathlib.Path | None = None,
    packing: Packing | None = None,
    owns: Callable[[int], Collection[int]] | None = None,
) -> "Loader":
    """Reads, tokenises and batches a split.

    Args:
        config: all data options. `chat_template`, when set, replaces the tokenizer's.
        tokenizer: see `load_tokenizer`.
        kind: "text" gives `TokenBatch`, "pairs" `PairBatch`, "unpaired" `UnpairedBatch`.
        batch_size: rows (or pairs) per batch; always the leading dimension, filled up with empty
          rows.
        seed: of the order.
        split: "train" or "eval".
        cache_dir: folder for tokenised data; None keeps nothing.
        packing: how the update packs sequences (`room` of a batch); None: not at all. Not read
          where rows hold several documents already (`data.packing`).
        owns: (places of a batch) -> those that this process fills (`rlhf_jax.sharding.own_rows`);
          in the others only the mask is right. None: all.

    Raises:
        DataError: see `load_examples`.
    """
    if kind not in ROWS:
        raise DataError(
            f"kind {kind!r} has no batches: {', '.join(ROWS)} (prompts have make_prompt_loader)"
        )
    if config.packing and kind != "text":
        raise DataError("data.packing is for SFT only: answers are packed by training.pack")
    if config.train_on == "all" and kind != "text":
        raise DataError(
            "data.train_on 'all' is for SFT only: answers are scored on their completions"
        )
    if batch_size < 1:
        raise DataError(f"batch_size {batch_size} must be at least 1")
    if config.chat_template is not None:
        tokenizer = tokenizer.with_chat_template(template_source(config.chat_template))
    fingerprint = data_fingerprint(config, tokenizer, kind, split)
    options: Any = {"split": split, "cache_dir": cache_dir, "fingerprint": fingerprint}
    # Further processes read from the cache what the first one has tokenised.
    data = leader_first(
        f"tokens of {split}", lambda: tokenize_split(config, tokenizer, kind=kind, **options)
    )
    loader = Loader(
        data,
        config,
        tokenizer,
        kind=kind,
        batch_size=batch_size,
        seed=seed,
        fingerprint=fingerprint,
        packing=packing,
        owns=owns,
    )
    logger.info(
        "%s (%s): %d batches an epoch, tokens fill %.0f %% of their places%s",
        *(config.path, split, loader.batches_per_epoch, 100 * loader.padding_efficiency),
        " (packed)" if loader.rooms is not None else "",
    )
    if kind == "unpaired":
        logger.info("%s (%s): %s", config.path, split, balance(data.labels))
    return loader


class Loader:
    """Batches of a tokenised split. Stateless: the step number is all there is to remember.

    ``for batch in loader`` goes through the first epoch, `batch(step)` gives any batch of any, and
    `sequential` every row once in storage order.

    An *item* is what fills one place of a batch: an example, or with packing a row of several
    documents.

    Attributes:
        num_examples: examples in the split.
        num_items: places they take in an epoch; equal to `num_examples` without packing.
        batches_per_epoch: steps per epoch, the last one filled up.
        skipped: examples left out, by reason.
        shortened: examples cut to the length limits.
        fingerprint: hash of data, tokenizer and the options that decide about tokens.
        tokenizer: the one in use (with the chat template of the config).
        buckets, scored_buckets: widths T and S that batches have.
        rooms: of packed batches; None: they are not packed.
    """

    def __init__(
        self,
        data: TokenizedSet,
        config: DataConfig,
        tokenizer: FastTokenizer,
        *,
        kind: OfflineKind,
        batch_size: int,
        seed: int,
        fingerprint: str,
        packing: Packing | None = None,
        owns: Callable[[int], Collection[int]] | None = None,
    ):
        self.kind = kind
        self.batch_size = batch_size
        self.seed = seed
        self.fingerprint = fingerprint
        self.tokenizer = tokenizer
        self.skipped = data.skipped
        self.shortened = data.shortened
        self._data = data
        self._config = config
        self._owns = owns
        self._rows_per_item = ROWS[kind]
        row_lengths = np.diff(data.offsets)
        self.num_examples = len(row_lengths) // self._rows_per_item
        trained = np.add.reduceat(np.asarray(data.trained), data.offsets[:-1], dtype=np.int64)
        self._items: list[list[int]] | None = None
        if config.packing:
            self._items = pack(row_lengths, config.max_length)
            self._lengths = np.array([row_lengths[item].sum() for item in self._items])
            self._scored = np.array([trained[item].sum() for item in self._items])
        else:
            self._lengths = row_lengths.reshape(-1, self._rows_per_item).max(axis=1)
            self._scored = trained.reshape(-1, self._rows_per_item).max(axis=1)
        self._totals = row_lengths.reshape(-1, self._rows_per_item).sum(axis=1)
        self._scored_totals = trained.reshape(-1, self._rows_per_item).sum(axis=1)
        self._present = self._lengths if config.packing else self._totals
        self._tokens_per_epoch = int(row_lengths.sum())
        self.num_items = len(self._lengths)
        self.batches_per_epoch = -(-self.num_items // batch_size)
        self._epoch = functools.lru_cache(maxsize=2)(self._plan_epoch)
        self.rooms: EpochRooms | None = None
        self.buckets, self.scored_buckets = self._choose_shapes()
        # Widths chosen by hand are not overridden unless packing was asked for.
        if packing is not None and not config.packing and (packing.always or not config.buckets):
            self._pack(packing)

    @property
    def has_margins(self) -> bool:
        """Whether pairs carry an annotated preference strength."""
        return self.kind == "pairs" and not np.isnan(self._data.margins).all()

    @functools.cached_property
    def padding_efficiency(self) -> float:
        """Share of the batches' token places that hold tokens, in the first epoch."""
        if self.rooms is None:
            return self._tokens_per_epoch / self._padded_places()
        totals, scored = self._sums()
        return float(totals.sum() / self.rooms.places(totals, scored))

    @functools.cached_property
    def largest_room(self) -> Room | None:
        """Of the first epoch's batches; None: they are not packed."""
        return None if self.rooms is None else self.rooms.largest(*self._sums())

    @property
    def nbytes(self) -> int:
        """Of the tokenised split."""
        return sum(array.nbytes for array in self._data if isinstance(array, np.ndarray))

    def indices(self, step: int) -> np.ndarray:
        """Items of that batch: int64 [batch_size], -1 for filler. Joins cached values."""
        epoch, position = divmod(step, self.batches_per_epoch)
        return self._epoch(epoch)[position]

    def tokens_before(self, step: int) -> int:
        """Tokens, prompts included, of all batches before that of a step."""
        epochs, position = divmod(step, self.batches_per_epoch)
        rows = self._epoch(epochs)[:position]
        return epochs * self._tokens_per_epoch + int(self._present[rows[rows >= 0]].sum())

    def batch(self, step: int) -> OfflineBatch:
        """The batch of a step (from 0, over all epochs), NumPy leaves."""
        return self._make(self.indices(step))

    def sequential(
        self, batch_size: int | None = None
    ) -> Iterator[tuple[np.ndarray, OfflineBatch]]:
        """Every item once in storage order: (items [batch_size] with -1 for filler, batch)."""
        size = self.batch_size if batch_size is None else batch_size
        for indices in epoch_batches(self._lengths, size, seed=0, epoch=0, shuffle=False):
            yield indices, self._make(indices)

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[TokenBatch | PairBatch | UnpairedBatch]:
        """The batches of the first epoch, in the order of training."""
        return (self.batch(step) for step in range(self.batches_per_epoch))

    def _plan_epoch(self, epoch: int) -> np.ndarray:
        config = self._config
        return epoch_batches(
            self._lengths,
            self.batch_size,
            seed=self.seed,
            epoch=epoch,
            shuffle=config.shuffle,
            window=config.length_window,
        )

    def _choose_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Few widths that fit the batches of the first epoch well and every batch at all."""
        config = self._config
        batches = self._epoch(0)

        def widest(values: np.ndarray) -> np.ndarray:
            return np.append(np.where(batches >= 0, values[batches], 0).max(axis=1), values.max())

        if config.buckets:
            return config.buckets, config.buckets
        shared = {"multiple": config.pad_multiple, "limit": config.max_length}
        buckets = choose_buckets(widest(self._lengths), config.num_buckets, **shared)
        scored = choose_buckets(widest(self._scored), -(-config.num_buckets // 2), **shared)
        return buckets, scored

    def _pack(self, packing: Packing) -> None:
        """Packs batches from now on, if that is worth it."""
        if self._rows_per_item > 1 and packing.share_prompt:
            self._totals = self._totals - shared_prompts(self._data)
        batch = Sequences(
            number=self._rows_per_item * self.batch_size,
            longest=int(self._lengths.max()),
            completion=int(self._scored.max()),
            group=self._rows_per_item,
        )
        # Their loss reads half of what their scores read: parts are as many as it takes.
        packing = packing._replace(in_parts=self.kind == "unpaired")
        rooms = EpochRooms(*self._sums(), batch=batch, packing=packing)
        if pays(rooms.places(*self._sums()), self._padded_places(), packing):
            self.rooms = rooms

    def _sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of each batch of the first epoch; trained ones."""
        batches = self._epoch(0)
        return tuple(
            np.where(batches >= 0, values[batches], 0).sum(axis=1)
            for values in (self._totals, self._scored_totals)
        )

    def _padded_places(self) -> int:
        """Places of the first epoch with a row for each sequence."""
        widths = [
            bucket_for(int(self._lengths[row[row >= 0]].max()), self.buckets)
            for row in self._epoch(0)
        ]
        return sum(widths) * self.batch_size * self._rows_per_item

    def _make(self, indices: np.ndarray) -> OfflineBatch:
        present = indices[indices >= 0]
        # Rooms are made for whole batches, and in packed rows one width serves all of those.
        rooms = self.rooms if len(indices) == self.batch_size else None
        least = slice(None) if rooms is None else slice(-1, None)
        width = bucket_for(int(self._lengths[present].max()), self.buckets[least])
        scored_width = min(
            width, bucket_for(int(self._scored[present].max()), self.scored_buckets[least])
        )
        rows = len(indices) * self._rows_per_item
        tokens: Any = np.full((rows, width), self.tokenizer.pad_id, np.int32)
        segment_ids: Any = np.zeros((rows, width), np.int32)
        trained: Any = np.zeros((rows, width), np.bool_)
        owned = range(len(indices)) if self._owns is None else self._owns(len(indices))
        for place, index in enumerate(indices.tolist()):
            for column in range(self._rows_per_item if index >= 0 else 0):
                row = place * self._rows_per_item + column
                places = self._fill(row, index, column, segment_ids)
                for document, where in places if place in owned else ():
                    tokens[row, where] = self._data.tokens[self._span(document)]
                    trained[row, where] = self._data.trained[self._span(document)]
        scored: Any = scored_columns(trained, scored_width)
        room = None
        if rooms is not None:
            sums = (values[present].sum() for values in (self._totals, self._scored_totals))
            room = rooms.of(*map(int, sums))
        if self.kind == "text":
            return TokenBatch(
                tokens,
                segment_ids > 0,
                trained,
                segment_ids if self._config.packing else None,
                scored,
                room=room,
            )
        shape = (len(indices), 2, width)
        valid: Any = indices >= 0
        answers: dict[str, Any] = {
            "tokens": tokens.reshape(shape),
            "mask": (segment_ids > 0).reshape(shape),
            "completion_mask": trained.reshape(shape),
            "valid": valid,
            "scored": scored.reshape(len(indices), 2, scored_width),
            "room": room,
        }
        if self.kind == "unpaired":
            return UnpairedBatch(**answers, label=valid & self._data.labels[indices])
        margin: Any = None
        if self.has_margins:
            given = np.nan_to_num(self._data.margins[indices], nan=0.0)
            margin = np.where(valid, given, 0.0).astype(np.float32)
        return PairBatch(**answers, margin=margin)

    def _fill(
        self, row: int, index: int, column: int, segment_ids: np.ndarray
    ) -> list[tuple[int, slice]]:
        """Numbers the documents of a row; returns where each of them lies in it."""
        documents = (
            [index * self._rows_per_item + column] if self._items is None else self._items[index]
        )
        places = []
        start = 0
        for number, document in enumerate(documents, start=1):
            span = self._span(document)
            stop = start + span.stop - span.start
            segment_ids[row, start:stop] = number
            places.append((document, slice(start, stop)))
            start = stop
        return places

    def _span(self, document: int) -> slice:
        """Where the tokens of a document lie in the split."""
        return slice(int(self._data.offsets[document]), int(self._data.offsets[document + 1]))
