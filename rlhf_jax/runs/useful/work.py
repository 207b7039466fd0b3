"""What a batch must cost at least: useful operations, and bytes that must pass through memory."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from rlhf_jax.models import ModelConfig
from rlhf_jax.models.flops import BACKWARD, attention_flops, cache_reads, forward_flops
from rlhf_jax.runs.useful.passes import Pass
from rlhf_jax.training.packing import lay_out, padding_of, pieces_of
from rlhf_jax.types import TokenBatch


class Stage(NamedTuple):
    """Work of one kind, done after that of the stage before."""

    flops: float
    bytes: float

    def least(self, products: float, memory: float) -> float:
        """Seconds that it takes at least.

        Args:
          products: operations per second.
          memory: bytes per second.
        """
        return max(self.flops / products, self.bytes / memory)


class Content(NamedTuple):
    """What is in a batch."""

    spans: Int[np.ndarray, "N 2"]
    """Stretches of sequences, see `rlhf_jax.models.flops.forward_flops`."""
    trained: int
    """Tokens to be predicted."""


def content_of(batch: Any) -> Content:
    """Tokens of a batch: padding is none, and a prompt counts once where the run lets the sequences
    of a group share it.

    Args:
      batch: of any kind, packed or not.
    """
    trained = int(np.sum(batch.completion_mask))
    if batch.room is not None and batch.room.group > 1:
        return Content(_shared_spans(jax.device_get(pieces_of(batch))), trained)
    mask = np.asarray(batch.mask)
    if isinstance(batch, TokenBatch) and batch.segment_ids is not None:
        ids = np.asarray(batch.segment_ids)
        lengths = np.concatenate([np.bincount(row)[1:] for row in ids])
    else:
        lengths = mask.reshape(-1, mask.shape[-1]).sum(axis=1)
    return Content(spans_of(np.zeros_like(lengths), lengths), trained)


def spans_of(first: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """[N] and [N] -> [N, 2], without empty ones."""
    spans = np.stack([first.reshape(-1), stop.reshape(-1)], axis=1).astype(np.int64)
    return spans[spans[:, 1] > spans[:, 0]]


def _shared_spans(pieces: Any) -> np.ndarray:
    """What each sequence has of its own, and what each group shares, once."""
    shared = np.broadcast_to(pieces.shared[:, None], pieces.own.shape)
    own = spans_of(shared, shared + pieces.own)
    present = pieces.own.sum(axis=1) > 0
    families = np.unique(pieces.family[present], return_index=True)[1]
    lengths = pieces.shared[present][families]
    return np.concatenate([own, spans_of(np.zeros_like(lengths), lengths)])


def padding(batch: Any) -> float:
    """Share of the places that a pass over the batch computes which hold no token."""
    if batch.room is None:
        return 1 - float(np.mean(batch.mask))
    return float(padding_of(lay_out(pieces_of(batch), batch.room), batch.room))


def places(batch: Any, parts: int) -> int:
    """Tokens that a layer sees at a time.

    Args:
      batch: of the update.
      parts: minibatches times microbatches, where rows are not packed.
    """
    if batch.room is not None:
        return batch.room.rows * batch.room.width
    return max(batch.mask.size // parts, 1)


def flops_of(passes: Sequence[Pass], content: Content) -> int:
    """Useful operations of some passes over a batch: forward once, backward twice that, nothing
    computed again."""
    total = 0
    for each in passes:
        predictions = content.trained if each.predicts else 0
        forward = forward_flops(each.config, content.spans, predictions)
        total += forward * (1 + BACKWARD) if each.is_trained else forward
    return total


def attention_of(passes: Sequence[Pass], content: Content) -> float:
    """The part of `flops_of` that is attention's, as kernels compute it: their backward pass makes
    the scores again, 5 products for the 2 of the forward pass (Dao et al. 2022, arXiv:2205.14135,
    algorithm 4)."""
    return sum(
        attention_flops(each.config, content.spans) * (1 + 5 / 2 * each.is_trained)
        for each in passes
    )


class Decoder(NamedTuple):
    """A model that samples, as far as its memory traffic goes."""

    config: ModelConfig
    parameters: int
    """Bytes read for every token: everything but a table of which only rows are read."""
    place: int
    """Bytes of a key and a value in one layer."""


def make_decoder(config: ModelConfig, params: Any, itemsize: int) -> Decoder:
    """A model that samples.

    Args:
      config: its architecture.
      params: its tree.
      itemsize: bytes of a number, of parameters and of the cache.
    """
    tables = {"position"} if config.tie_embeddings else {"position", "embed"}
    read = [tree for name, tree in params.items() if name not in tables]
    count = sum(leaf.size for leaf in jax.tree.leaves(read))
    place = 2 * config.num_kv_heads * config.head_dim * itemsize
    return Decoder(config, count * itemsize, place)


def generation_stages(
    decoder: Decoder,
    prompts: Int[np.ndarray, " P"],
    completions: Int[np.ndarray, "P G"],
    slots: int,
) -> tuple[Stage, Stage]:
    """Reading the prompts, and decoding all tokens but the first of each completion.

    Args:
      decoder: who samples.
      prompts: tokens of each.
      completions: tokens of each of its completions.
      slots: rows that decode at a time.

    Returns:
      (prefill, decode). Decoding takes as many steps as its longest row, or as all tokens over the
      slots; in each one the parameters are read.
    """
    config = decoder.config
    reading = spans_of(np.zeros_like(prompts), prompts)
    prefill = Stage(forward_flops(config, reading, len(prompts)), decoder.parameters)
    further = np.maximum(completions - 1, 0)
    start = np.broadcast_to(prompts[:, None], further.shape)
    decoded = int(further.sum())
    steps = max(int(further.max(initial=0)), -(-decoded // slots))
    cache = cache_reads(config, prompts, completions) * decoder.place
    decode = Stage(
        forward_flops(config, spans_of(start, start + further), decoded),
        steps * decoder.parameters + cache,
    )
    return prefill, decode
