"""Floating point operations that a model's answers cost: a formula, not what a program computes.

Counted are products (2 operations for a multiplication and its addition), as in the papers that
report model flops utilisation (PaLM, Chowdhery et al. 2022, arXiv:2204.02311, appendix B): the
layers' kernels, attention's two products, the unembedding. Not counted: what is linear in the
activations (norms, rotations, softmax, activations, biases, scalar heads), which is below a few
percent for models of any size. Unlike PaLM's formula, attention counts only what is looked at: the
causal half, and in sliding layers the window.
"""

import numpy as np
from jaxtyping import Int

from rlhf_jax.models.config import ModelConfig

BACKWARD = 2
"""Operations of a backward pass in forward passes: each product has two gradients."""


def forward_flops(config: ModelConfig, spans: Int[np.ndarray, "N 2"], predictions: int) -> int:
    """Operations of reading tokens and predicting some of their successors.

    Args:
      config: the architecture.
      spans: of each stretch of a sequence that is read, the position of its first token and of the
        one behind its last: [0, n] is a whole sequence, [n, n + 1] the next decoded token.
      predictions: positions whose successor's distribution over the vocabulary is computed.
    """
    tokens = int((np.asarray(spans, np.int64) @ (-1, 1)).sum())
    kernels = 2 * tokens * config.num_layers * layer_kernels(config)
    head = 2 * predictions * config.hidden_size * config.vocab_size
    return kernels + attention_flops(config, spans) + head


def attention_flops(config: ModelConfig, spans: Int[np.ndarray, "N 2"]) -> int:
    """The part of `forward_flops` that is attention's: scores, and values weighed by them.

    Args:
      config, spans: as for `forward_flops`.
    """
    first = np.asarray(spans, np.int64)[:, 0]
    stop = np.asarray(spans, np.int64)[:, 1]
    width = config.num_heads * config.head_dim
    looked_at = sum(
        int(seen_pairs(first, stop, window).sum()) * layers for window, layers in windows_of(config)
    )
    return 2 * 2 * width * looked_at


def layer_kernels(config: ModelConfig) -> int:
    """Parameters in the kernels of one layer: each multiplies every token once."""
    queries = config.num_heads * config.head_dim
    keys = config.num_kv_heads * config.head_dim
    attention = config.hidden_size * (2 * queries + 2 * keys)
    matrices = 3 if config.gated_mlp else 2
    return attention + matrices * config.hidden_size * config.intermediate_size


def windows_of(config: ModelConfig) -> tuple[tuple[int | None, int], ...]:
    """(tokens that a query sees at most, itself included; None: all of them; number of layers)."""
    sliding = config.layer_types.count("sliding")
    return ((None, config.num_layers - sliding), (config.sliding_window, sliding))


def seen_pairs(
    first: Int[np.ndarray, " N"], stop: Int[np.ndarray, " N"], window: int | None
) -> Int[np.ndarray, " N"]:
    """Pairs of a query and a key that it sees: position p sees p + 1, or `window` at most.

    Args:
      first, stop: positions of the queries of each stretch.
      window: None: causal attention to everything.
    """
    return _seen_before(stop, window) - _seen_before(first, window)


def _seen_before(position: np.ndarray, window: int | None) -> np.ndarray:
    """Pairs of all queries before a position."""
    if window is None:
        return position * (position + 1) // 2
    near = np.minimum(position, window)
    return near * (near + 1) // 2 + (position - near) * window


def cache_reads(
    config: ModelConfig,
    prompts: Int[np.ndarray, " P"],
    completions: Int[np.ndarray, "P G"],
) -> int:
    """Places of the cache that decoding must read, each holding a key and a value of one layer.

    In every step a prompt's are read once for all of its completions that still decode, and each of
    these reads its own. The first token of a completion comes with the prompt and reads nothing.

    Args:
      config: the architecture.
      prompts: tokens of each.
      completions: tokens of each of its completions.
    """
    steps = np.arange(1, max(int(completions.max(initial=1)), 1))[None, :]
    going = (completions[:, :, None] > steps[:, None, :]).sum(axis=1)
    places = 0
    for window, layers in windows_of(config):
        own = steps if window is None else np.minimum(steps, window)
        # What is left of the window behind the completion's own tokens.
        left = prompts[:, None] if window is None else np.clip(window - steps, 0, prompts[:, None])
        places += layers * int((own * going + left * (going > 0)).sum())
    return places
