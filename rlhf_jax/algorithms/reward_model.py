"""Reward model: a scalar head trained to score the chosen answer above the rejected one.

    L = - log σ(s_chosen - s_rejected - margin) + c (s_chosen + s_rejected)^2

What gets credit: the difference of the two scores alone, so their common level is free (and
`center_coef` holds it).

The score is read at the last present token. Bradley-Terry loss of InstructGPT eq. 1
(arXiv:2203.02155); margin of Llama 2 eq. 2 (arXiv:2307.09288), used when the data has one; centring
of Eisenstein et al. eq. 2 (arXiv:2312.09244), which holds the free constant of the scores near 0.

Differences: none from TRL; EasyDeL centres by default with 0.1.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from rlhf_jax.algorithms.checks import require, weigh_pairs
from rlhf_jax.algorithms.forward import pair_scores
from rlhf_jax.checked import checked
from rlhf_jax.ops import masked, weighted_sum
from rlhf_jax.ops.checks import check_range
from rlhf_jax.ops.precision import Scalar, promote
from rlhf_jax.types import Algorithm, Key, Metrics, Model, Models, PairBatch, Trained, Trees


@checked
@dataclass(frozen=True)
class RewardModelConfig:
    """Options of reward modelling."""

    data: ClassVar[Literal["pairs"]] = "pairs"
    models: ClassVar[Models] = Models({"policy": Trained(head="reward")})
    sampling: ClassVar[None] = None
    summary: ClassVar[str] = "reward model: a scalar score learned from preference pairs"
    learning_rate: ClassVar[float] = 1e-4
    """Default of `optimizer.learning_rate`: TRL uses 1e-4, lm-human-preferences 5e-5, OpenRLHF
    9e-6. The head is new and has far to go."""

    center_coef: float = 0.0
    """Weight of (s_chosen + s_rejected)^2, which keeps scores near 0; 0.01 is usual."""

    def __post_init__(self) -> None:
        check_range("center_coef", self.center_coef, low=0)


def pairwise_reward_loss(
    chosen_scores: Float[Array, " B"],
    rejected_scores: Float[Array, " B"],
    weights: Float[Array, " B"],
    *,
    margin: Float[Array, " B"] | None = None,
    center_coef: Scalar = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """Bradley-Terry loss of scores, with an optional margin and centring.

        L = sum_i w_i [ - log σ(c_i - r_i - m_i) + center_coef (c_i + r_i)^2 ]

    InstructGPT eq. 1 (arXiv:2203.02155), Llama 2 eq. 2 (arXiv:2307.09288), Eisenstein et al. eq. 2
    (arXiv:2312.09244).

    Args:
      chosen_scores: c, reward units. Gradients flow.
      rejected_scores: r, reward units. Gradients flow.
      weights: one a pair, 0 for a filler; sums to 1 over the optimizer step's batch.
      margin: m, reward units, not differentiated; None for 0.
      center_coef: weight of the centring term.

    Returns:
      (loss, metrics); metrics: loss/total, loss/weight, rewards/chosen, rewards/rejected,
      rewards/margin, rewards/accuracy (ties count half), rewards/mean.
    """
    chosen, rejected, weights = promote(chosen_scores, rejected_scores, weights)
    chosen = masked(chosen, weights != 0)
    rejected = masked(rejected, weights != 0)
    difference = chosen - rejected
    target = (
        0.0
        if margin is None
        else lax.stop_gradient(masked(promote(margin, weights)[0], weights != 0))
    )
    loss = weighted_sum(
        -jax.nn.log_sigmoid(difference - target) + center_coef * (chosen + rejected) ** 2, weights
    )
    return loss, {
        "loss/total": loss,
        "loss/weight": jnp.sum(weights),
        "rewards/chosen": weighted_sum(chosen, weights),
        "rewards/rejected": weighted_sum(rejected, weights),
        "rewards/margin": weighted_sum(difference, weights),
        "rewards/accuracy": weighted_sum(
            (jnp.sign(lax.stop_gradient(difference)) + 1) / 2, weights
        ),
        "rewards/mean": weighted_sum((chosen + rejected) / 2, weights),
    }


def make(config: RewardModelConfig, model: Model) -> Algorithm:
    """Reward modelling as pure functions.

    Args:
      config: options.
      model: with a scalar head (`head="reward"`).

    Returns:
      The algorithm; it reads the tree "policy", which is the reward model.

    Raises:
      ValueError: the model has no scalar head.
    """
    score = pair_scores(model)

    def loss(trees: Trees, batch: PairBatch, key: Key) -> tuple[Float[Array, ""], Metrics]:
        (weights,) = require(batch, "weights")
        chosen, rejected = score(trees, batch).T
        return pairwise_reward_loss(
            chosen, rejected, weights, margin=batch.margin, center_coef=config.center_coef
        )

    return Algorithm(loss=loss, weigh=weigh_pairs)
