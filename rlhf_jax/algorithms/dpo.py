"""Direct preference optimisation: preference pairs without a reward model and without sampling.

    h = (log π(y_w|x) - log π_ref(y_w|x)) - (log π(y_l|x) - log π_ref(y_l|x))
    L = - log σ(beta h)

What gets credit: a whole answer, as far as the policy has made it likelier than the reference did.
The chosen one is pushed up and the rejected one down by the same amount, which shrinks as soon as
the pair is told apart, so pairs that are already right teach little. Nothing says which tokens of
an answer made the difference.

DPO eq. 7 (Rafailov et al. 2023, arXiv:2305.18290). Log-probabilities are sums over the completion,
EOS included; `ipo` divides each by the length of its completion first. The reference's are computed
once and cached (`reference="precomputed"`), computed in every step (`"online"`), or taken as 0
(`"none"`).

Differences: `label_smoothing` on `sigmoid` is cDPO (TRL ignores it there); `robust` is a loss of
its own; the average is over the global batch. Metrics: rewards/* are beta * (log π - log π_ref)
for
every loss type, as in TRL.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from rlhf_jax.algorithms.checks import require, weigh_pairs
from rlhf_jax.algorithms.forward import completion_lengths, completion_logps
from rlhf_jax.checked import checked
from rlhf_jax.ops import masked, weighted_sum
from rlhf_jax.ops.checks import check_choice, check_range
from rlhf_jax.ops.precision import Scalar, promote
from rlhf_jax.types import Algorithm, Key, Metrics, Model, Models, PairBatch, Trees

LOSS_TYPES = ("sigmoid", "ipo", "hinge", "robust", "apo_zero", "apo_down")
READ: dict[str, Literal["none", "once", "always"]] = {
    "precomputed": "once",
    "online": "always",
    "none": "none",
}
"""`reference` -> when the tree "ref" is read."""


@checked
@dataclass(frozen=True)
class DPOConfig:
    """Options of direct preference optimisation."""

    data: ClassVar[Literal["pairs"]] = "pairs"
    sampling: ClassVar[None] = None
    summary: ClassVar[str] = "direct preference optimisation (DPO, cDPO, IPO, hinge, robust, APO)"
    learning_rate: ClassVar[float] = 1e-6
    """Default of `optimizer.learning_rate`: the paper (appendix B) and TRL use 1e-6, on hh-rlhf
    MaxText 5e-7, OpenRLHF 1e-5. Ten times more turns the answers of a small model into nonsense
    within a dozen steps."""

    beta: float = 0.1
    """Strength of the pull towards the reference (IPO: tau)."""
    loss_type: str = "sigmoid"
    """sigmoid | ipo | hinge | robust | apo_zero | apo_down."""
    label_smoothing: float = 0.0
    """Probability that a label is wrong: cDPO with sigmoid, robust DPO with robust."""
    reference: str = "precomputed"
    """precomputed: log-probabilities cached once; online: reference model in memory; none: no
    reference."""

    def __post_init__(self) -> None:
        check_range("beta", self.beta, above=0)
        check_choice("reference", self.reference, tuple(READ))
        _check_loss_type(self.loss_type, self.label_smoothing)

    @property
    def models(self) -> Models:
        """The policy; the reference as often as `reference` says."""
        return Models(reference=READ[self.reference])


def dpo_loss(
    chosen_logps: Float[Array, " B"],
    rejected_logps: Float[Array, " B"],
    ref_chosen_logps: Float[Array, " B"],
    ref_rejected_logps: Float[Array, " B"],
    weights: Float[Array, " B"],
    *,
    beta: Scalar = 0.1,
    loss_type: str = "sigmoid",
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """Preference loss of log-ratios, summed with per-pair weights.

        c = chosen - ref_chosen,   r = rejected - ref_rejected,   h = c - r,   e = label_smoothing
        sigmoid    -(1 - e) log σ(beta h) - e log σ(-beta h)
        ipo        (h - 1 / (2 beta))^2
        hinge      max(0, 1 - beta h)
        robust     (-(1 - e) log σ(beta h) + e log σ(-beta h)) / (1 - 2 e)
        apo_zero   1 - σ(beta c) + σ(beta r)
        apo_down   σ(beta c) + 1 - σ(beta h)

    DPO eq. 7 (arXiv:2305.18290); e > 0 with sigmoid is cDPO (Mitchell 2023, "A note on DPO with
    noisy preferences"); IPO eq. 17 (arXiv:2310.12036), beta = tau; hinge is SLiC-HF
    (arXiv:2305.10425) with DPO's reward; robust DPO is Chowdhury et al. 2024 (arXiv:2403.00409);
    APO eq. 7 and 8 (arXiv:2408.06266). The function sees numbers only: for IPO the caller hands it
    log-probabilities divided by completion length, as `make` does and TRL's DPOTrainer.

    Args:
      chosen_logps: log π(y_w|x), nats. Gradients flow.
      rejected_logps: log π(y_l|x), nats. Gradients flow.
      ref_chosen_logps: the same under the reference; not differentiated.
      ref_rejected_logps: the same under the reference; not differentiated.
      weights: one a pair, 0 for a filler; sums to 1 over the optimizer step's batch.
      beta: > 0, 1/nats.
      loss_type: one of the six above.
      label_smoothing: e in [0, 0.5), for sigmoid and robust only.

    Returns:
      (loss, metrics); metrics: loss/total, loss/weight, rewards/chosen, rewards/rejected,
      rewards/margin, rewards/accuracy (ties
      count half: where policy and reference are equal it is 0.5), logps/chosen, logps/rejected.

    Raises:
      ValueError: unknown loss_type; label_smoothing out of range or with another loss type.
    """
    _check_loss_type(loss_type, label_smoothing)
    *logps, weights = promote(
        chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, weights
    )
    chosen, rejected, ref_chosen, ref_rejected = (masked(x, weights != 0) for x in logps)
    chosen_ratio = chosen - lax.stop_gradient(ref_chosen)
    rejected_ratio = rejected - lax.stop_gradient(ref_rejected)
    loss = weighted_sum(
        _pair_loss(chosen_ratio, rejected_ratio, beta, loss_type, label_smoothing), weights
    )
    margin = chosen_ratio - rejected_ratio
    # Policy and reference may have been computed in rows of other shapes: what differs by rounding
    # alone is a tie.
    size = sum(jnp.abs(x) for x in (chosen, rejected, ref_chosen, ref_rejected))
    tie = jnp.abs(margin) <= 4 * jnp.finfo(margin.dtype).eps * size
    side = jnp.where(tie, 0.0, jnp.sign(lax.stop_gradient(margin)))
    return loss, {
        "loss/total": loss,
        "loss/weight": jnp.sum(weights),
        "rewards/chosen": beta * weighted_sum(chosen_ratio, weights),
        "rewards/rejected": beta * weighted_sum(rejected_ratio, weights),
        "rewards/margin": beta * weighted_sum(margin, weights),
        "rewards/accuracy": weighted_sum((side + 1) / 2, weights),
        "logps/chosen": weighted_sum(chosen, weights),
        "logps/rejected": weighted_sum(rejected, weights),
    }


def make(config: DPOConfig, model: Model) -> Algorithm:
    """Direct preference optimisation as pure functions.

    Args:
      config: options.
      model: policy (and, with other parameters, the reference).

    Returns:
      The algorithm; it reads the tree "policy", and with `reference="online"` "ref" in every loss.
      With "precomputed" `batch.ref_logps` (sums, also for IPO) is cached from "ref" once.
    """
    average = config.loss_type == "ipo"
    score = completion_logps(model, "policy", average=average)
    ref_score = completion_logps(model, "ref", average=average)

    def reference(trees: Trees, batch: PairBatch) -> Float[Array, "B 2"] | None:
        if config.reference == "online":
            return lax.stop_gradient(ref_score(trees, batch))
        if config.reference == "none":
            return None
        (sums,) = require(batch, "ref_logps")
        return sums / completion_lengths(batch) if average else sums

    def loss(trees: Trees, batch: PairBatch, key: Key) -> tuple[Float[Array, ""], Metrics]:
        (weights,) = require(batch, "weights")
        logps = score(trees, batch)
        ref = reference(trees, batch)
        ref = jnp.zeros_like(logps) if ref is None else ref
        return dpo_loss(
            logps[:, 0],
            logps[:, 1],
            ref[:, 0],
            ref[:, 1],
            weights,
            beta=config.beta,
            loss_type=config.loss_type,
            label_smoothing=config.label_smoothing,
        )

    is_cached = config.reference == "precomputed"
    cached = {"ref_logps": completion_logps(model, "ref")} if is_cached else {}
    return Algorithm(loss=loss, weigh=weigh_pairs, cached=cached)


def _pair_loss(
    c: Array, r: Array, beta: Scalar, loss_type: str, smoothing: float
) -> Float[Array, " B"]:
    """The loss of each pair from its two log-ratios."""
    h = c - r
    if loss_type == "ipo":
        return (h - 1 / (2 * beta)) ** 2
    if loss_type == "hinge":
        return jax.nn.relu(1 - beta * h)
    if loss_type == "apo_zero":
        return 1 - jax.nn.sigmoid(beta * c) + jax.nn.sigmoid(beta * r)
    if loss_type == "apo_down":
        return jax.nn.sigmoid(beta * c) + 1 - jax.nn.sigmoid(beta * h)
    right = -jax.nn.log_sigmoid(beta * h)
    wrong = -jax.nn.log_sigmoid(-beta * h)
    if loss_type == "robust":
        return ((1 - smoothing) * right - smoothing * wrong) / (1 - 2 * smoothing)
    return (1 - smoothing) * right + smoothing * wrong


def _check_loss_type(loss_type: str, label_smoothing: float) -> None:
    """One-line errors for what cannot be meant."""
    check_choice("loss_type", loss_type, LOSS_TYPES)
    check_range("label_smoothing", label_smoothing, low=0, below=0.5)
    if label_smoothing and loss_type not in ("sigmoid", "robust"):
        raise ValueError(
            f"label_smoothing={label_smoothing!r} has no meaning for loss_type={loss_type!r}: use "
            "sigmoid or robust"
        )
