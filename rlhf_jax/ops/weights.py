"""Loss weights: how a loss is averaged, as an array."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.ops.checks import check_choice
from rlhf_jax.ops.precision import default_float

WEIGHT_MODES = ("token", "sequence", "constant")


def loss_weights(
    mask: Bool[Array, "B T"],
    mode: str = "token",
    *,
    constant: float | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T"]:
    """Per-token weights w such that sum(w * per_token_loss) is the wanted average. 0 off the mask.

        token:     w = 1 / N                      N tokens kept in the batch
        sequence:  w = 1 / (R * n_row)            R rows with a token kept, n_row such in the row
        constant:  w = 1 / (B * constant)         B rows, empty ones included

    Sequence is GRPO (eq. 3 of arXiv:2402.03300), token is DAPO (eq. 12 of arXiv:2503.14476, over
    the whole batch), constant is Dr. GRPO (arXiv:2503.20783, section 3.2: the generation budget
    instead of the length). Compute them once per optimizer step over the global batch, never per
    microbatch. Differences: rows without a kept token are not counted by `sequence` (TRL counts
    them as loss 0, verl does not); `constant` is a number given by the caller (verl and others take
    the padded width, which changes with the batch).

    Args:
      mask: True = token is trained on.
      mode: "token", "sequence" or "constant".
      constant: tokens per row in mode "constant", usually the generation limit.
      segment_ids: packed documents, numbered from 1 in each row, 0 on padding. With them a "row"
        above is a document.

    Returns:
      Weights, float32 (float64 under x64). They sum to 1 in modes token and sequence unless the
      mask is empty (then all 0).

    Raises:
      ValueError: unknown mode; `constant` missing, not positive, or given in another mode.

    Example:
      >>> import jax.numpy as jnp
      >>> from rlhf_jax.ops import loss_weights
      >>> mask = jnp.array([[True, True, False, False], [True, True, True, True]])
      >>> print(loss_weights(mask, "sequence"))
      [[0.25  0.25  0.    0.   ]
       [0.125 0.125 0.125 0.125]]
    """
    check_choice("mode", mode, WEIGHT_MODES)
    if (mode == "constant") != (constant is not None) or (
        constant is not None and not constant > 0
    ):
        mend = (
            "give a positive constant"
            if mode == "constant"
            else 'leave constant out, or use mode="constant"'
        )
        raise ValueError(f"mode={mode!r} with constant={constant!r}: {mend}")
    dtype = default_float()
    kept = mask.astype(dtype)
    if mode == "token":
        return kept / jnp.maximum(jnp.sum(kept), 1)
    length, rows, nonempty = (
        _lengths(kept) if segment_ids is None else _packed_lengths(kept, segment_ids)
    )
    if mode == "sequence":
        return kept / (jnp.maximum(length, 1) * jnp.maximum(nonempty, 1))
    return kept / (jnp.maximum(rows, 1) * jnp.asarray(constant, dtype))


def _lengths(
    kept: Float[Array, "B T"],
) -> tuple[Float[Array, "B T"], Float[Array, ""], Float[Array, ""]]:
    """(tokens kept in this row [B, T], rows, rows with a kept token)."""
    length = jnp.sum(kept, axis=1)
    rows = jnp.asarray(kept.shape[0], kept.dtype)
    return (
        jnp.broadcast_to(length[:, None], kept.shape),
        rows,
        jnp.sum(length > 0).astype(kept.dtype),
    )


def _packed_lengths(
    kept: Float[Array, "B T"], segment_ids: Int[Array, "B T"]
) -> tuple[Float[Array, "B T"], Float[Array, ""], Float[Array, ""]]:
    """As `_lengths`, with documents for rows: a scatter-add a row, of at most T documents."""
    slots = kept.shape[1] + 1

    def count(values: Float[Array, " T"], ids: Int[Array, " T"]) -> Float[Array, " slots"]:
        return jax.ops.segment_sum(values, ids, num_segments=slots)

    present = jax.vmap(count)((segment_ids > 0).astype(kept.dtype), segment_ids)
    per_document = jax.vmap(count)(jnp.where(segment_ids > 0, kept, 0), segment_ids)
    length = jnp.take_along_axis(per_document, segment_ids, axis=1)
    return (
        length,
        jnp.sum(present > 0).astype(kept.dtype),
        jnp.sum(per_document > 0).astype(kept.dtype),
    )
