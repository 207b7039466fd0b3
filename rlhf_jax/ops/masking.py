"""Masked reductions. A mask is bool, True = keep; what it drops may be NaN and never leaks."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.ops.precision import promote


def masked(x: Float[Array, "*shape"], mask: Bool[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Zeroes what the mask drops: x where mask, else 0.

    Apply it to the *inputs* of `exp`, `log` and products, not to their results: the gradient of
    what was dropped is then exactly 0, where 0 * inf would be NaN (the double-where rule).

    Args:
      x: any values; NaN and infinities off the mask are harmless. Gradients flow through kept
        positions.
      mask: True = keep.

    Returns:
      An array like x.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops import masked
      >>> print(masked(jnp.array([1.0, jnp.nan]), jnp.array([True, False])))
      [1. 0.]
    """
    return jnp.where(mask, x, jnp.zeros_like(x))


def weighted_sum(x: Float[Array, "*shape"], weights: Float[Array, "*shape"]) -> Float[Array, ""]:
    """The sum of w_i * x_i over positions with w_i != 0.

        s = sum_i w_i x_i

    How a loss is averaged is a weight array (see `loss_weights`), so the sums of microbatches,
    devices and packed rows just add up.

    Args:
      x: values; NaN at zero weight does not leak. Gradients flow.
      weights: float; not differentiated.

    Returns:
      A scalar.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops import weighted_sum
      >>> print(weighted_sum(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([0.5, 0.5, 0.0])))
      2.0
    """
    x, weights = promote(x, weights)
    return jnp.sum(masked(x, weights != 0) * lax.stop_gradient(weights))


def masked_mean(x: Float[Array, "*shape"], mask: Bool[Array, "*shape"]) -> Float[Array, ""]:
    """The mean over kept positions; 0 when there is none.

        mean = sum_i m_i x_i / max(sum_i m_i, 1)

    Differs from TRL (0/0 = NaN on an empty mask) and verl (adds 1e-8 to the count).

    Args:
      x: values. Gradients flow through kept positions.
      mask: True = keep.

    Returns:
      A scalar.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops import masked_mean
      >>> print(masked_mean(jnp.array([1.0, 2.0, 9.0]), jnp.array([True, True, False])))
      1.5
    """
    (x,) = promote(x)
    count = jnp.maximum(jnp.sum(mask), 1).astype(x.dtype)
    return jnp.sum(masked(x, mask)) / count


def masked_whiten(
    x: Float[Array, "*shape"], mask: Bool[Array, "*shape"], *, shift_mean: bool = True
) -> Float[Array, "*shape"]:
    """Scales kept positions to unit variance, and to zero mean unless `shift_mean` is False.

        y = (x - mean) / sqrt(var + 1e-8) [+ mean],   var = sum_i m_i (x_i - mean)^2 / (n - 1)

    The unbiased variance of TRL, verl and the 2019 RLHF code (Ziegler et al., arXiv:1909.08593);
    call it on the whole batch, not on microbatches. Differences: positions off the mask become 0
    (verl leaves them), and a mask with at most one kept position gives y = 0 [+ mean] (verl
    raises).

    Args:
      x: values. Gradients flow through kept positions, mean and variance included.
      mask: True = keep.
      shift_mean: False keeps the mean (for rewards, whose sign matters).

    Returns:
      An array like x (float32 or float64), 0 off the mask.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops import masked_whiten
      >>> mask = jnp.array([True, True, True, False])
      >>> print(masked_whiten(jnp.array([1.0, 2.0, 3.0, 7.0]), mask))
      [-1.  0.  1.  0.]
    """
    (x,) = promote(x)
    x = masked(x, mask)
    count = jnp.sum(mask).astype(x.dtype)
    mean = jnp.sum(x) / jnp.maximum(count, 1)
    centred = masked(x - mean, mask)
    variance = jnp.sum(centred**2) / jnp.maximum(count - 1, 1)
    whitened = centred * lax.rsqrt(variance + 1e-8)
    return whitened if shift_mean else masked(whitened + mean, mask)


def predicted_mask(
    mask: Bool[Array, "B T"], segment_ids: Int[Array, "B T"] | None = None
) -> Bool[Array, "B T"]:
    """Drops from a mask what nothing predicts: first tokens of rows and of packed documents.

    `logps[:, 0]` is 0 by definition, and the first token of a packed document would be predicted by
    the end of the document before it. Neither may be trained on nor counted in an average.

    Args:
      mask: True = keep.
      segment_ids: packed documents, numbered in each row; None: one document per row.

    Returns:
      The smaller mask.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops import predicted_mask
      >>> print(predicted_mask(jnp.ones((1, 5), bool), jnp.array([[1, 1, 2, 2, 2]])).astype(int))
      [[0 1 0 1 1]]
    """
    later = jnp.broadcast_to((jnp.arange(mask.shape[1]) > 0)[None, :], mask.shape)
    if segment_ids is not None:
        later &= segment_ids == jnp.roll(segment_ids, 1, axis=1)
    return mask & later
