"""Supervised fine-tuning: maximum likelihood of the completion tokens.

    L = - sum_t w_t log π(y_t | y_<t)

What gets credit: every token of the answers, each for itself, however good the answer is; prompts
and padding get none.

`aggregation="token"` averages over all trained tokens of the optimizer step, like every peer;
`"sequence"` averages first over each document, so that long answers do not outvote short ones.
InstructGPT (arXiv:2203.02155), section 3.5. A document is a row of the data: a conversation that
the chat template rewrites is one row an answer, each with the context that the model sees, and
counts once for each, in training and in the held-out loss alike.

Differences from the peers: the average is over the global batch, not per microbatch; the first
token of a row and of a packed document is predicted by nothing and is neither trained on nor
counted.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlhf_jax.algorithms.checks import require
from rlhf_jax.algorithms.forward import token_stats
from rlhf_jax.algorithms.metrics import entropy_bonus
from rlhf_jax.checked import checked
from rlhf_jax.ops import loss_weights, predicted_mask, weighted_sum
from rlhf_jax.ops.checks import check_choice
from rlhf_jax.types import (
    Algorithm,
    Key,
    Metrics,
    Model,
    Models,
    TokenBatch,
    Trees,
    trained_elements,
)


@checked
@dataclass(frozen=True)
class SFTConfig:
    """Options of supervised fine-tuning."""

    data: ClassVar[Literal["text"]] = "text"
    models: ClassVar[Models] = Models()
    sampling: ClassVar[None] = None
    summary: ClassVar[str] = "supervised fine-tuning: maximum likelihood of answers"
    learning_rate: ClassVar[float] = 2e-5
    """Default of `optimizer.learning_rate`: TRL and EasyDeL use 2e-5, OpenRLHF 5e-6."""

    aggregation: str = "token"
    """token: mean over tokens of the batch; sequence: mean over documents (rows) of their token
    means."""
    token_metrics: bool = True
    """Report accuracy/token and policy/entropy; false saves their share of the loss's work."""

    def __post_init__(self) -> None:
        check_choice("aggregation", self.aggregation, ("token", "sequence"))


def sft_loss(
    logps: Float[Array, "B T"], weights: Float[Array, "B T"]
) -> tuple[Float[Array, ""], Metrics]:
    """Negative log-likelihood, summed with per-token weights.

        L = - sum_t w_t logps_t

    Args:
      logps: log π of the tokens, nats. Gradients flow.
      weights: non-negative, 0 on prompts and padding; sums to 1 over the optimizer step's batch.

    Returns:
      (loss, metrics); metrics: loss/total (nats per token), loss/weight.
    """
    loss = -weighted_sum(logps, weights)
    return loss, {"loss/total": loss, "loss/weight": jnp.sum(weights)}


def make(config: SFTConfig, model: Model) -> Algorithm:
    """Supervised fine-tuning as pure functions.

    Args:
      config: options.
      model: policy.

    Returns:
      The algorithm; it reads the tree "policy". Metrics are those of `sft_loss`, policy/entropy
      and, of a model that tells it, accuracy/token.
    """

    def loss(trees: Trees, batch: TokenBatch, key: Key) -> tuple[Float[Array, ""], Metrics]:
        (weights,) = require(batch, "weights")
        found = token_stats(
            model, trees, batch, entropy=config.token_metrics, top=config.token_metrics
        )
        total, metrics = sft_loss(found.logps, weights)
        metrics |= entropy_bonus(found.entropy, weights, 0.0)[1]
        if found.top is not None:
            metrics["accuracy/token"] = weighted_sum(found.top, weights)
        return total, metrics

    def weigh(batch: TokenBatch) -> TokenBatch:
        trained = predicted_mask(batch.completion_mask, batch.segment_ids)
        return batch._replace(
            weights=loss_weights(trained, config.aggregation, segment_ids=batch.segment_ids)
        )

    elements = trained_documents if config.aggregation == "sequence" else trained_elements
    return Algorithm(loss=loss, weigh=weigh, elements=elements)


def trained_documents(batch: TokenBatch) -> Int[Array, ""]:
    """Documents (rows, or segments of packed rows) with a trained token."""
    (weights,) = require(batch, "weights")
    segments = batch.mask.astype(jnp.int32) if batch.segment_ids is None else batch.segment_ids
    width = segments.shape[1]

    def of_row(segments: Array, used: Array) -> Array:
        # Segment 0 is padding; a document counts once, however many of its tokens are trained.
        found = jax.ops.segment_max(used.astype(jnp.int32), segments, width + 1)
        return found[1:].clip(0, 1).sum()

    return jax.vmap(of_row)(segments, weights > 0).sum()
