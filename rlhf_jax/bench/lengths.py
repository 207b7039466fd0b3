"""Lengths of completions in comparisons; needs NumPy alone, as the PyTorch sides do."""

import pathlib

import numpy as np

LENGTHS = "lengths.npy"


def lognormal_lengths(
    count: int, *, median: float, longest: int, sigma: float = 0.8, seed: int = 0
) -> np.ndarray:
    """int32 [count] lengths in 1 .. longest."""
    drawn = np.exp(np.random.default_rng(seed).normal(np.log(median), sigma, count))
    return np.clip(np.round(drawn), 1, longest).astype(np.int32)


def is_ragged(folder: pathlib.Path) -> bool:
    """Whether iterations score and update given completions of given lengths, and sample none."""
    return (folder / LENGTHS).exists()


def given_mask(folder: pathlib.Path, completions: np.ndarray) -> np.ndarray:
    """bool [B, T]: the tokens of the given completions; all of them, unless they are ragged.

    Args:
      folder: of the comparison.
      completions: int32 [B, T].
    """
    width = completions.shape[1]
    lengths = np.load(folder / LENGTHS) if is_ragged(folder) else np.full(len(completions), width)
    return np.arange(width) < lengths[:, None]
