"""Kahneman-Tversky optimisation: single answers, each judged desirable or not, without pairs.

    u = log π(y|x) - log π_ref(y|x),   z = max(0, mean over the batch of u(x, y'))
    L = λ_D (1 - σ(beta (u - z))) of a desirable answer,  λ_U (1 - σ(beta (z - u))) of an
    undesirable one

What gets credit: a whole answer, as far as the policy has made it likelier (or, if undesirable,
less likely) than answers in general. z stands for those: it is how far the policy has drifted from
the reference on answers y' to other prompts, an estimate of KL(policy || reference) that is taken
over the batch and not differentiated. An answer far on its right side teaches little, and so does
one far on the wrong side, as people discount large gains and losses alike.

KTO eq. 7 (Ethayarajh et al. 2024, arXiv:2402.01306); `apo_zero_unpaired` (arXiv:2408.06266)
has z = 0 and reads no unrelated answers. λ_D n_D / (λ_U n_U) is best from 1 to 4/3 for n_D
desirable and n_U undesirable rows (the paper's eq. 8); the log and ``rlhf-jax data`` say what that
asks for. Data are rows of `prompt`, `completion` and `label`; pairs are taken apart into two rows.

Differences: which unrelated answer stands behind which prompt is settled once for the data (the
answer at the same place among those of the prompt before it), so that the reference's
log-probabilities are cached like all others and the rows can be shuffled; TRL rotates the answers
of each batch, and so forbids shuffling. z is the mean over the optimizer step's global batch (TRL:
of each microbatch, clamped before it is averaged over processes). The average is over the global
batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.algorithms.checks import require, weigh_pairs
from rlhf_jax.algorithms.forward import completion_logps
from rlhf_jax.checked import checked
from rlhf_jax.ops import masked, masked_mean, weighted_sum
from rlhf_jax.ops.checks import check_choice, check_range
from rlhf_jax.ops.precision import Scalar, promote
from rlhf_jax.types import (
    Algorithm,
    Key,
    Metrics,
    Model,
    Models,
    Params,
    Score,
    Trees,
    UnpairedBatch,
)

LOSS_TYPES = ("kto", "apo_zero_unpaired")
READ: dict[str, Literal["once", "always"]] = {"precomputed": "once", "online": "always"}
"""`reference` -> when the tree "ref" is read."""


@checked
@dataclass(frozen=True)
class KTOConfig:
    """Options of Kahneman-Tversky optimisation."""

    data: ClassVar[Literal["unpaired"]] = "unpaired"
    sampling: ClassVar[None] = None
    summary: ClassVar[str] = "Kahneman-Tversky optimisation: single answers judged good or bad"
    learning_rate: ClassVar[float] = 1e-6
    """Default of `optimizer.learning_rate`: TRL uses 1e-6, the paper 5e-7."""

    beta: float = 0.1
    """Strength of the pull towards the reference."""
    loss_type: str = "kto"
    """kto, or apo_zero_unpaired: answers are compared with the reference alone."""
    desirable_weight: float = 1.0
    """λ_D, of every desirable answer in the loss."""
    undesirable_weight: float = 1.0
    """λ_U, of every undesirable answer in the loss."""
    reference: str = "precomputed"
    """precomputed: log-probabilities cached once; online: reference model in memory."""

    def __post_init__(self) -> None:
        check_range("beta", self.beta, above=0)
        check_choice("loss_type", self.loss_type, LOSS_TYPES)
        check_choice("reference", self.reference, tuple(READ))
        for name in ("desirable_weight", "undesirable_weight"):
            check_range(name, getattr(self, name), low=0)
        if not self.desirable_weight + self.undesirable_weight > 0:
            raise ValueError(
                "desirable_weight=0 and undesirable_weight=0: nothing is trained; set one above 0"
            )

    @property
    def models(self) -> Models:
        """The policy; the reference as often as `reference` says."""
        return Models(reference=READ[self.reference])


def kto_loss(
    logps: Float[Array, " B"],
    ref_logps: Float[Array, " B"],
    label: Bool[Array, " B"],
    weights: Float[Array, " B"],
    *,
    baseline: Float[Array, " B"] | Scalar = 0.0,
    shares: Float[Array, "B 2"] | None = None,
    beta: Scalar = 0.1,
    desirable_weight: Scalar = 1.0,
    undesirable_weight: Scalar = 1.0,
) -> tuple[Float[Array, ""], Metrics]:
    """Loss of single answers against a baseline, summed with per-answer weights.

        u = logps - ref_logps
        L = sum_i w_i λ_i (1 - σ(s_i beta (u_i - z))),   s = 1, λ = λ_D where label, else -1, λ_U

    KTO eq. 7 (arXiv:2402.01306); z = 0 is the unpaired form of APO-zero (arXiv:2408.06266, eq. 7).

    Args:
      logps: log π(y|x), nats, summed over the completion. Gradients flow through it only.
      ref_logps: the same under the reference.
      label: the answer is desirable.
      weights: one an answer, 0 for a filler; sums to 1 over the optimizer step's batch.
      baseline: z >= 0, nats.
      shares: of a row in the mean over desirable and over undesirable answers of the step, for the
        metrics of each; None: without those.
      beta: > 0, 1/nats.
      desirable_weight: λ_D.
      undesirable_weight: λ_U.

    Returns:
      (loss, metrics); metrics: loss/total, loss/weight, rewards/accuracy (share of answers on their
      right side of the baseline, ties by half), and with `shares` rewards/chosen, rewards/rejected
      (beta u), logps/chosen, logps/rejected of desirable and undesirable answers, NaN where the
      step has none.
    """
    logps, ref_logps, weights, baseline = promote(logps, ref_logps, weights, jnp.asarray(baseline))
    keep = weights != 0
    logps, ref_logps = (masked(x, keep) for x in (logps, ref_logps))
    ratio = logps - lax.stop_gradient(ref_logps)
    side = jnp.where(label, 1.0, -1.0).astype(ratio.dtype)
    gain = side * (ratio - lax.stop_gradient(baseline))
    # 1 - σ(x) loses its digits where x is large.
    of_answer = jax.nn.sigmoid(-beta * gain)
    scale = jnp.where(label, desirable_weight, undesirable_weight)
    loss = weighted_sum(scale * of_answer, weights)
    # Policy and reference may have been computed in rows of other shapes: what differs by rounding
    # alone is on neither side.
    tie = jnp.abs(gain) <= 4 * jnp.finfo(gain.dtype).eps * (jnp.abs(logps) + jnp.abs(ref_logps))
    right = (jnp.where(tie, 0.0, jnp.sign(lax.stop_gradient(gain))) + 1) / 2
    metrics = {
        "loss/total": loss,
        "loss/weight": jnp.sum(weights),
        "rewards/accuracy": weighted_sum(right, weights),
    }
    if shares is None:
        return loss, metrics
    # The rows of other parts carry no weight; NaN marks what the whole step has none of.
    own = jnp.where(keep[:, None] | jnp.isnan(shares), shares, 0)
    for name, values in (("rewards", beta * ratio), ("logps", logps)):
        values = lax.stop_gradient(values)
        metrics[f"{name}/chosen"] = jnp.sum(values * own[:, 0])
        metrics[f"{name}/rejected"] = jnp.sum(values * own[:, 1])
    return loss, metrics


def make(config: KTOConfig, model: Model) -> Algorithm:
    """Kahneman-Tversky optimisation as pure functions.

    Args:
      config: options.
      model: policy (and, with other parameters, the reference).

    Returns:
      The algorithm; it reads the tree "policy", and with `reference="online"` "ref" in every step.
      With "precomputed" `batch.ref_logps` is cached from "ref" once.
    """
    compares = config.loss_type == "kto"
    score = completion_logps(model, "policy", answer=0)
    ref_score = completion_logps(model, "ref")
    needs: dict[str, Score] = {}
    if compares:
        needs["unrelated_logps"] = completion_logps(model, "policy", answer=1)
    if config.reference == "online":
        needs["ref_logps"] = ref_score

    def loss(trees: Trees, batch: UnpairedBatch, key: Key) -> tuple[Float[Array, ""], Metrics]:
        ref, weights = require(batch, "ref_logps", "weights")
        return kto_loss(
            score(trees, batch),
            ref[:, 0],
            batch.label,
            weights,
            baseline=require(batch, "baseline")[0] if compares else 0.0,
            shares=batch.shares,
            beta=config.beta,
            desirable_weight=config.desirable_weight,
            undesirable_weight=config.undesirable_weight,
        )

    def prepare(batch: UnpairedBatch, aux: Params) -> tuple[UnpairedBatch, Params, Metrics]:
        if not compares:
            return batch, aux, {}
        unrelated, ref = require(batch, "unrelated_logps", "ref_logps")
        drift = masked_mean(unrelated - ref[:, 1], batch.valid)
        baseline = jnp.maximum(drift, 0)
        spread = jnp.broadcast_to(baseline, batch.valid.shape)
        return batch._replace(baseline=spread), aux, {"kl/baseline": baseline}

    def weigh(batch: UnpairedBatch) -> UnpairedBatch:
        sides = jnp.stack([batch.valid & batch.label, batch.valid & ~batch.label], axis=1)
        counts = jnp.sum(sides, axis=0, keepdims=True)
        shares = jnp.where(counts > 0, sides / jnp.maximum(counts, 1), jnp.nan)
        batch = weigh_pairs(batch)._replace(shares=shares)
        if batch.room is None:
            return batch
        # What is packed is what is present: the loss reads no unrelated answer.
        own = jnp.array([True, False])[None, :, None]
        return batch._replace(mask=batch.mask & own, completion_mask=batch.completion_mask & own)

    cached = {"ref_logps": ref_score} if config.reference == "precomputed" else {}
    return Algorithm(
        loss=loss, prepare=prepare, weigh=weigh, needs=needs, cached=cached, elements=judged
    )


def judged(batch: UnpairedBatch) -> Mapping[str, Int[Array, ""]]:
    """Answers of a batch, and those that each metric is the mean of."""
    desirable = jnp.sum(batch.valid & batch.label)
    undesirable = jnp.sum(batch.valid & ~batch.label)
    counts = {"": desirable + undesirable}
    for name in ("rewards", "logps"):
        counts |= {f"{name}/chosen": desirable, f"{name}/rejected": undesirable}
    return counts
