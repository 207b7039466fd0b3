"""Supervised fine-tuning: maximum likelihood of the completion tokens.

    L = - sum_t w_t log π(y_t | y_<t)

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
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.algorithms.checks import require
from rlhf_jax.ops import loss_weights, predicted_mask, weighted_sum
from rlhf_jax.ops.checks import check_choice
from rlhf_jax.types import Algorithm, Key, Metrics, Model, Params, TokenBatch


@dataclass(frozen=True)
class SFTConfig:
    """Options of supervised fine-tuning."""

    data: ClassVar[str] = "text"
    head: ClassVar[str | None] = None
    summary: ClassVar[str] = "supervised fine-tuning: maximum likelihood of answers"
    learning_rate: ClassVar[float] = 2e-5
    """Default of `optimizer.learning_rate`: TRL and EasyDeL use 2e-5, OpenRLHF 5e-6."""

    aggregation: str = "token"
    """token: mean over tokens of the batch; sequence: mean over documents (rows) of their token
    means."""

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
      The algorithm; params is the model's tree, frozen is not used.
    """

    def loss(
        params: Params, frozen: Params, batch: TokenBatch, key: Key
    ) -> tuple[Float[Array, ""], Metrics]:
        (weights,) = require(batch, "weights")
        logps, _ = model.token_logps(
            params, batch.tokens, batch.mask, segment_ids=batch.segment_ids, scored=batch.scored
        )
        return sft_loss(logps, weights)

    def prepare(batch: TokenBatch, aux: Params) -> tuple[TokenBatch, Params, Metrics]:
        return batch, aux, {}

    def weigh(batch: TokenBatch) -> TokenBatch:
        trained = predicted_mask(batch.completion_mask, batch.segment_ids)
        return batch._replace(
            weights=loss_weights(trained, config.aggregation, segment_ids=batch.segment_ids)
        )

    return Algorithm(loss=loss, prepare=prepare, weigh=weigh, needs=frozenset())
