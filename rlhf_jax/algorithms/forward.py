"""What algorithms read from a model: log-probabilities, values and scores, for their losses and as
`Score` functions that fill a batch before the update.

Every function takes trees by role, so that a loss and a score cannot disagree about whose
parameters they read.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from rlhf_jax.algorithms.checks import require, scalar_head
from rlhf_jax.ops import masked
from rlhf_jax.ops.precision import default_float, promote
from rlhf_jax.types import (
    Model,
    PairBatch,
    PolicyBatch,
    Score,
    TokenBatch,
    TokenLogps,
    Trees,
)


def token_logps(
    model: Model,
    trees: Trees,
    batch: TokenBatch | PolicyBatch,
    *,
    role: str = "policy",
    temperature: float = 1.0,
    segment_ids: Int[Array, "B T"] | None = None,
    entropy: bool = False,
) -> TokenLogps:
    """Log-probability of every token of a batch, and the entropy it was chosen with.

    Args:
      model: functions of all roles.
      trees: parameters by role. Gradients flow.
      batch: rows of tokens (for pairs see `completion_logps`).
      role: whose.
      temperature: of the distribution.
      segment_ids: of packed rows.
      entropy: whether something reads it.

    Returns:
      (log-probabilities, entropies or None), nats; 0 off the scored columns.
    """
    logps, spread = model.role(role).token_logps(
        trees[role],
        batch.tokens,
        batch.mask,
        segment_ids=segment_ids,
        scored=batch.scored,
        temperature=temperature,
        entropy=entropy,
    )
    return TokenLogps(logps, spread)


def old_logps(model: Model, temperature: float) -> Score:
    """Log-probabilities of the policy that sampled, for `Algorithm.needs`.

    The trainer's own where the row was sampled by the parameters of now, so that the first ratio is
    exactly 1. Groups that were carried over were sampled by an older policy, whose
    log-probabilities only the sampler has.
    """

    def score(trees: Trees, batch: PolicyBatch) -> Float[Array, "B T"]:
        logps, _ = token_logps(model, trees, batch, temperature=temperature)
        if batch.on_policy is None or batch.sampler_logps is None:
            return logps
        return jnp.where(batch.on_policy[:, None], logps, batch.sampler_logps)

    return score


def ref_logps(model: Model, temperature: float) -> Score:
    """Log-probabilities of the sampled tokens under the reference, for `Algorithm.needs`."""

    def score(trees: Trees, batch: PolicyBatch) -> Float[Array, "B T"]:
        return token_logps(model, trees, batch, role="ref", temperature=temperature)[0]

    return score


def values(model: Model, role: str = "critic") -> Score:
    """Value of the state in which each token is chosen: the scalar head read one token earlier.

    Args:
      model: functions of all roles.
      role: whose scalar head: "critic", or "policy" where it shares the trunk.

    Returns:
      (trees, batch) -> values [B, T], reward units, aligned like log-probabilities; column 0 is 0.
      Gradients flow.

    Raises:
      ValueError: the model has no scalar head.
    """
    head = scalar_head(model.role(role), "value")

    def score(trees: Trees, batch: PolicyBatch) -> Float[Array, "B T"]:
        scores = head(trees[role], batch.tokens, batch.mask)
        return jnp.pad(scores[:, :-1], ((0, 0), (1, 0)))

    return score


def completion_logps(model: Model, role: str, *, average: bool = False) -> Score:
    """Log-probability of each completion of a pair, in one forward pass.

    Args:
      model: functions of all roles.
      role: "policy" or "ref".
      average: divide by the completion's length (at least 1).

    Returns:
      (trees, batch) -> sums over the completion [B, 2], nats (nats per token with `average`); 0 for
      an empty completion. Gradients flow.
    """

    def score(trees: Trees, batch: PairBatch) -> Float[Array, "B 2"]:
        rows = flat_pairs(batch)
        scored = None if batch.scored is None else batch.scored.reshape(rows.tokens.shape[0], -1)
        logps, _ = model.role(role).token_logps(
            trees[role], rows.tokens, rows.mask, scored=scored, entropy=False
        )
        (logps,) = promote(logps)
        total = jnp.sum(masked(logps, rows.completion_mask), axis=1).reshape(-1, 2)
        return total / completion_lengths(batch) if average else total

    return score


def pair_scores(model: Model, role: str = "policy") -> Score:
    """The scalar head read at the last present token of each answer.

    Args:
      model: functions of all roles.
      role: whose scalar head.

    Returns:
      (trees, batch) -> scores [B, 2], reward units; axis 1 is (chosen, rejected). Gradients flow.

    Raises:
      ValueError: the model has no scalar head.
    """
    head = scalar_head(model.role(role), "reward")

    def score(trees: Trees, batch: PairBatch) -> Float[Array, "B 2"]:
        rows = flat_pairs(batch)
        scores = head(trees[role], rows.tokens, rows.mask)
        last = jnp.maximum(jnp.sum(rows.mask, axis=1) - 1, 0)
        return jnp.take_along_axis(scores, last[:, None], axis=1).reshape(-1, 2)

    return score


def completion_lengths(batch: PairBatch) -> Float[Array, "B 2"]:
    """Tokens of each completion, at least 1."""
    return jnp.maximum(jnp.sum(batch.completion_mask, axis=2), 1).astype(default_float())


def flat_pairs(batch: PairBatch) -> PairBatch:
    """Tokens and masks of the 2 B answers as rows: [B, 2, T] -> [2 B, T]; the rest is left out."""
    pairs, sides, width = batch.tokens.shape
    tokens, mask, completion = (
        x.reshape(pairs * sides, width) for x in (batch.tokens, batch.mask, batch.completion_mask)
    )
    return PairBatch(tokens, mask, completion, batch.valid)


def behaviour_logps(batch: PolicyBatch, logps: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """Log-probabilities of the policy that sampled: what the importance ratio divides by.

    Rows that `batch.on_policy` marks were sampled by the parameters being differentiated, so the
    current log-probabilities, without gradient, are theirs: the ratio is exactly 1 and no forward
    pass is spent on it. Other rows read `old_logps`, or where nothing was scored what the sampler
    reported.

    Args:
      batch: rollout.
      logps: of the current policy, nats.

    Returns:
      [B, T], nats; no gradient.

    Raises:
      ValueError: neither `on_policy` nor `old_logps` is there, or rows off the policy have no
        log-probabilities at all.
    """
    if batch.on_policy is None:
        return lax.stop_gradient(require(batch, "old_logps")[0])
    old = batch.old_logps if batch.old_logps is not None else require(batch, "sampler_logps")[0]
    return lax.stop_gradient(jnp.where(batch.on_policy[:, None], logps, old.astype(logps.dtype)))
