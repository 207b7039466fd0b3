"""Direct preference optimisation: preference pairs without a reward model and without sampling.

    h = (log π(y_w|x) - log π_ref(y_w|x)) - (log π(y_l|x) - log π_ref(y_l|x))
    L = - log σ(beta h)

What gets credit: a whole answer, as far as the policy has made it likelier than the reference did.
The chosen one is pushed up and the rejected one down by the same amount, which shrinks as soon as
the pair is told apart, so pairs that are already right teach little. Nothing says which tokens of
an answer made the difference.

DPO eq. 7 (Rafailov et al. 2023, arXiv:2305.18290). Fifteen losses, each with its equation and paper
in `pair_losses.PAPERS`; several at once are summed with `loss_weights`: `[sigmoid, sft]` is DPO
with the likelihood of the chosen answers beside it (RPO, arXiv:2404.19733), `[sigmoid, bco_pair,
sft]` with `[0.8, 0.2, 1.0]` is MPO (arXiv:2411.10442). Log-probabilities are sums over the
completion, EOS included; `ipo` and `sigmoid_norm` divide each by the length of its completion. The
reference's are computed once and cached (`reference="precomputed"`), computed in every step
(`"online"`), or taken as 0 (`"none"`).

`aot` and `aot_unpaired` compare pairs of the same rank in the whole batch. Ranks are taken over the
optimizer step's batch, from a forward pass before it, so that microbatches, packing and devices
change nothing (TRL sorts within each microbatch of each process).

Differences: `label_smoothing` on `sigmoid` is cDPO (TRL ignores it there); `robust` is a loss of
its own; every average is over the global batch, that of `sft` too (tokens of all chosen answers;
TRL averages the token means of microbatches). Metrics: rewards/* are beta * (log π - log π_ref), of
sums, for every loss type, as in TRL.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from rlhf_jax.algorithms.checks import require, weigh_pairs
from rlhf_jax.algorithms.forward import completion_lengths, completion_logps
from rlhf_jax.algorithms.pair_losses import (
    MATCHED,
    PER_TOKEN,
    LossName,
    Pair,
    as_tuple,
    check_losses,
    find_loss,
    is_own,
    match_quantiles,
)
from rlhf_jax.checked import checked
from rlhf_jax.ops import masked, weighted_sum
from rlhf_jax.ops.checks import check_choice, check_range
from rlhf_jax.ops.precision import Scalar, promote
from rlhf_jax.types import (
    Algorithm,
    Key,
    Metrics,
    Model,
    Models,
    PairBatch,
    Params,
    Score,
    Trees,
)

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
    summary: ClassVar[str] = (
        "direct preference optimisation (DPO and 14 relatives: IPO, APO, robust, RPO, MPO ...)"
    )
    learning_rate: ClassVar[float] = 1e-6
    """Default of `optimizer.learning_rate`: the paper (appendix B) and TRL use 1e-6, on hh-rlhf
    MaxText 5e-7, OpenRLHF 1e-5. Ten times more turns the answers of a small model into nonsense
    within a dozen steps."""

    beta: float = 0.1
    """Strength of the pull towards the reference (IPO: tau)."""
    loss_type: str | list[str] | tuple[str, ...] = field(
        default="sigmoid", metadata={"tried": lambda config: _losses(config)}
    )
    """sigmoid | hinge | ipo | exo_pair | nca_pair | robust | bco_pair | sppo_hard | aot |
    aot_unpaired | apo_zero | apo_down | discopop | sft | sigmoid_norm; FILE.py:FUNCTION for one of
    your own, a function of a `pair_losses.Pair`; or several, which are summed: [sigmoid, sft]."""
    loss_weights: list[float] | tuple[float, ...] | None = None
    """Weight of each of several losses, such as [1.0, 0.1]; null: 1 each."""
    label_smoothing: float = 0.0
    """Probability that a label is wrong: cDPO with sigmoid, robust DPO with robust; read by
    exo_pair (which needs it above 0), aot and aot_unpaired too."""
    discopop_tau: float = 0.05
    """Temperature of loss_type=discopop, between its two parts."""
    reference: str = "precomputed"
    """precomputed: log-probabilities cached once; online: reference model in memory; none: no
    reference."""

    def __post_init__(self) -> None:
        for name in ("loss_type", "loss_weights"):
            if isinstance(getattr(self, name), list):  # a configuration is hashable
                object.__setattr__(self, name, tuple(getattr(self, name)))
        check_range("beta", self.beta, above=0)
        check_range("discopop_tau", self.discopop_tau, above=0)
        check_choice("reference", self.reference, tuple(READ))
        check_losses(self.loss_type, self.loss_weights, self.label_smoothing)

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
    loss_type: LossName | Sequence[LossName] = "sigmoid",
    label_smoothing: float = 0.0,
    loss_weights: Sequence[float] | None = None,
    lengths: Float[Array, "B 2"] | None = None,
    token_weights: Float[Array, " B"] | None = None,
    matches: Float[Array, "B 3"] | None = None,
    discopop_tau: float = 0.05,
) -> tuple[Float[Array, ""], Metrics]:
    """Preference loss of log-ratios, summed with per-pair weights.

        c = chosen - ref_chosen,   r = rejected - ref_rejected,   h = c - r,   e = label_smoothing
        L = sum_k loss_weights_k sum_i w_i loss_k(c_i, r_i);   sigmoid:  -(1 - e) log σ(beta h)
                                                                         - e log σ(-beta h)

    DPO eq. 7 (arXiv:2305.18290); the equations and papers of all losses are
    `pair_losses.PAPERS`.

    Args:
      chosen_logps: log π(y_w|x), nats, summed over the completion. Gradients flow.
      rejected_logps: log π(y_l|x), nats. Gradients flow.
      ref_chosen_logps: the same under the reference; not differentiated.
      ref_rejected_logps: the same under the reference; not differentiated.
      weights: one a pair, 0 for a filler; sums to 1 over the optimizer step's batch.
      beta: > 0, 1/nats.
      loss_type: one of `pair_losses.LOSS_TYPES`, or several; or a function of a
        `pair_losses.Pair`, itself or as ``FILE.py:FUNCTION``.
      label_smoothing: e in [0, 0.5), for the losses that read it.
      loss_weights: one a loss; None: 1 each.
      lengths: tokens of chosen and rejected, which ipo and sigmoid_norm divide by; None: the caller
        has divided already.
      token_weights: of sft: 1 / (tokens of all chosen answers of the optimizer step), 0 for a
        filler.
      matches: of aot and aot_unpaired: `pair_losses.match_quantiles` of the optimizer step's batch;
        None: these pairs are the whole batch.
      discopop_tau: > 0.

    Returns:
      (loss, metrics); metrics: loss/total, loss/weight, rewards/chosen, rewards/rejected,
      rewards/margin, rewards/accuracy (ties count half: where policy and reference are equal it is
      0.5), logps/chosen, logps/rejected; where sft is one of several also loss/preference (the
      others, weighted) and loss/sft (before its weight).

    Raises:
      ValueError: unknown loss_type; label_smoothing out of range or without a loss that reads it;
        sft without token_weights; loss_weights that do not fit.
    """
    check_losses(loss_type, loss_weights, label_smoothing)
    names = as_tuple(loss_type)
    if "sft" in names and token_weights is None:
        raise ValueError(
            "token_weights=None: loss_type='sft' is a mean over the tokens of all chosen answers "
            "of a step; give 1 / their number for each pair"
        )
    *logps, weights = promote(
        chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, weights
    )
    keep = weights != 0
    chosen, rejected, ref_chosen, ref_rejected = (masked(x, keep) for x in logps)
    ref_chosen, ref_rejected = lax.stop_gradient((ref_chosen, ref_rejected))
    if matches is None and set(names) & set(MATCHED):
        matches = match_quantiles(chosen, rejected, ref_chosen, ref_rejected, keep)
    pair = Pair(
        chosen - ref_chosen,
        rejected - ref_rejected,
        lengths,
        jnp.zeros((len(chosen), 3), chosen.dtype) if matches is None else matches,
        beta,
        label_smoothing,
        discopop_tau,
    )
    scales = dict(zip(names, loss_weights or (1.0,) * len(names), strict=True))
    preference = jnp.zeros((), weights.dtype)
    for name in names:
        if name != "sft":
            preference += scales[name] * weighted_sum(find_loss(name)(pair), weights)
    loss = preference
    metrics = _metrics(pair, chosen, rejected, ref_chosen, ref_rejected, weights)
    if token_weights is not None and "sft" in names:
        likelihood = -weighted_sum(chosen, token_weights)
        loss = loss + scales["sft"] * likelihood
        if len(names) > 1:
            metrics |= {"loss/preference": preference, "loss/sft": likelihood}
    return loss, metrics | {"loss/total": loss}


def make(config: DPOConfig, model: Model) -> Algorithm:
    """Direct preference optimisation as pure functions.

    Args:
      config: options.
      model: policy (and, with other parameters, the reference).

    Returns:
      The algorithm; it reads the tree "policy", and with `reference="online"` "ref" in every step.
      With "precomputed" `batch.ref_logps` (sums) is cached from "ref" once. Losses that compare
      quantiles need the policy's log-probabilities of the whole batch before the step.
    """
    # A user's function is loaded once: a file that is edited meanwhile changes nothing.
    names = _losses(config)
    by_token = any(name in PER_TOKEN or is_own(name) for name in names)
    matched = bool(set(names) & set(MATCHED))
    score = completion_logps(model, "policy")
    ref_score = completion_logps(model, "ref")
    needs: dict[str, Score] = {}
    if matched:
        needs["policy_logps"] = score
        if config.reference == "online":
            needs["ref_logps"] = ref_score

    def reference(trees: Trees, batch: PairBatch) -> Float[Array, "B 2"]:
        if config.reference == "none":
            return jnp.zeros(batch.valid.shape + (2,))
        if config.reference == "online" and not matched:
            return lax.stop_gradient(ref_score(trees, batch))
        return require(batch, "ref_logps")[0]

    def loss(trees: Trees, batch: PairBatch, key: Key) -> tuple[Float[Array, ""], Metrics]:
        weights = require(batch, "weights")[0]
        pairs = weights["pairs"] if "sft" in names else weights
        logps = score(trees, batch)
        ref = reference(trees, batch)
        return dpo_loss(
            logps[:, 0],
            logps[:, 1],
            ref[:, 0],
            ref[:, 1],
            pairs,
            beta=config.beta,
            loss_type=names,
            label_smoothing=config.label_smoothing,
            loss_weights=config.loss_weights,
            lengths=completion_lengths(batch) if by_token else None,
            token_weights=weights["tokens"] if "sft" in names else None,
            matches=require(batch, "matches")[0] if matched else None,
            discopop_tau=config.discopop_tau,
        )

    def prepare(batch: PairBatch, aux: Params) -> tuple[PairBatch, Params, Metrics]:
        if not matched:
            return batch, aux, {}
        (policy,) = require(batch, "policy_logps")
        ref = reference({}, batch)
        found = match_quantiles(policy[:, 0], policy[:, 1], ref[:, 0], ref[:, 1], batch.valid)
        return batch._replace(matches=found), aux, {}

    def weigh(batch: PairBatch) -> PairBatch:
        weighed = weigh_pairs(batch)
        (pairs,) = require(weighed, "weights")
        if "sft" not in names:
            return weighed
        # A mean over the tokens of all chosen answers of the step, beside the one over pairs.
        tokens = jnp.where(batch.valid, completion_lengths(batch)[:, 0], 0)
        share = batch.valid / jnp.maximum(jnp.sum(tokens), 1)
        return weighed._replace(weights={"pairs": pairs, "tokens": share})

    is_cached = config.reference == "precomputed"
    cached = {"ref_logps": ref_score} if is_cached else {}
    return Algorithm(loss=loss, prepare=prepare, weigh=weigh, needs=needs, cached=cached)


def _losses(config: DPOConfig) -> tuple[LossName, ...]:
    """The names of the losses, functions in place of those of one's own."""
    return tuple(find_loss(x) if is_own(x) else x for x in as_tuple(config.loss_type))


def _metrics(
    pair: Pair,
    chosen: Float[Array, " B"],
    rejected: Float[Array, " B"],
    ref_chosen: Float[Array, " B"],
    ref_rejected: Float[Array, " B"],
    weights: Float[Array, " B"],
) -> Metrics:
    """How far chosen and rejected answers are apart."""
    margin = pair.chosen - pair.rejected
    # Policy and reference may have been computed in rows of other shapes: what differs by rounding
    # alone is a tie.
    size = sum(jnp.abs(x) for x in (chosen, rejected, ref_chosen, ref_rejected))
    tie = jnp.abs(margin) <= 4 * jnp.finfo(margin.dtype).eps * size
    side = jnp.where(tie, 0.0, jnp.sign(lax.stop_gradient(margin)))
    return {
        "loss/weight": jnp.sum(weights),
        "rewards/chosen": pair.beta * weighted_sum(pair.chosen, weights),
        "rewards/rejected": pair.beta * weighted_sum(pair.rejected, weights),
        "rewards/margin": pair.beta * weighted_sum(margin, weights),
        "rewards/accuracy": weighted_sum((side + 1) / 2, weights),
        "logps/chosen": weighted_sum(chosen, weights),
        "logps/rejected": weighted_sum(rejected, weights),
    }
