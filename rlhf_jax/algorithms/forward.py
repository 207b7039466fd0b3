"""What algorithms read from a model: log-probabilities, values and scores, for their losses and as
`Score` functions that fill a batch before the update.

Every function takes trees by role, so that a loss and a score cannot disagree about whose
parameters they read.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.algorithms.checks import require, scalar_head
from rlhf_jax.ops import masked
from rlhf_jax.ops.precision import default_float, promote
from rlhf_jax.types import (
    Batch,
    Model,
    PairBatch,
    PolicyBatch,
    Score,
    TokenBatch,
    TokenLogps,
    TokenStats,
    Trees,
    UnpairedBatch,
)


def token_logps(
    model: Model,
    trees: Trees,
    batch: Batch,
    *,
    role: str = "policy",
    temperature: float = 1.0,
    entropy: bool = False,
) -> TokenLogps:
    """Log-probability of every token of a batch, and the entropy it was chosen with.

    Args:
      model: functions of all roles.
      trees: parameters by role. Gradients flow.
      batch: rows of tokens; the two answers of a pair are rows of their own.
      role: whose.
      temperature: of the distribution.
      entropy: whether something reads it.

    Returns:
      (log-probabilities, entropies or None), nats; 0 off the scored columns.
    """
    found = token_stats(
        model, trees, batch, role=role, temperature=temperature, entropy=entropy, top=False
    )
    return TokenLogps(found.logps, found.entropy)


def token_stats(
    model: Model,
    trees: Trees,
    batch: Batch,
    *,
    role: str = "policy",
    temperature: float = 1.0,
    entropy: bool = True,
    top: bool = True,
) -> TokenStats:
    """`token_logps`, and which tokens were the likeliest.

    Args:
      model, trees, batch, role, temperature, entropy: as there.
      top: whether something reads it.

    Returns:
      (log-probabilities, entropies or None, top or None); 0 off the scored columns.
    """
    read = rows_of(batch)
    functions: Any = model.role(role)
    asked = {"top": True} if top and functions.tells_top else {}
    found = functions.token_logps(
        trees[role],
        read.tokens,
        read.mask,
        scored=read.scored,
        temperature=temperature,
        entropy=entropy,
        **asked,
        **read.documents,
    )
    spread, first = (*found[1:], None)[:2]
    return TokenStats(
        unpacked(batch, found[0]),
        None if spread is None else unpacked(batch, spread),
        None if first is None else unpacked(batch, first),
    )


def old_logps(model: Model, temperature: float) -> Score:
    """Log-probabilities of the policy that sampled, for `Algorithm.needs`.

    The trainer's own where the row was sampled by the parameters of now, so that the first ratio is
    exactly 1. Groups that were carried over were sampled by an older policy, whose
    log-probabilities only the sampler has.
    """

    def score(trees: Trees, batch: PolicyBatch) -> Float[Array, "B T"]:
        return before_update(batch, token_logps(model, trees, batch, temperature=temperature).logps)

    return score


def before_update(batch: PolicyBatch, logps: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """The trainer's log-probabilities where it is the parameters of now that sampled, elsewhere the
    sampler's.

    Args:
      batch: rollout.
      logps: of the current policy, nats.
    """
    if batch.on_policy is None or batch.sampler_logps is None:
        return logps
    return jnp.where(batch.on_policy[:, None], logps, batch.sampler_logps)


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
      (trees, batch) -> values [B, T], reward units, aligned like log-probabilities; column 0 is 0,
      and so may be columns that are not scored. Gradients flow.

    Raises:
      ValueError: the model has no scalar head.
    """
    head = scalar_head(model.role(role), "value")
    read: Any = model.role(role).read

    def score(trees: Trees, batch: PolicyBatch) -> Float[Array, "B T"]:
        rows = rows_of(batch)
        if read is not None:
            asked: dict[str, Any] = {"logps": False, "values": True, "scored": rows.scored}
            found = read(trees[role], rows.tokens, rows.mask, **asked, **rows.documents)
            return unpacked(batch, found.values)
        scores = unpacked(batch, head(trees[role], rows.tokens, rows.mask, **rows.documents))
        return jnp.pad(scores[:, :-1], ((0, 0), (1, 0)))

    return score


class LogpsAndValues(NamedTuple):
    """What PPO reads of the tokens that were taken."""

    logps: Float[Array, "B T"]
    entropy: Float[Array, "B T"] | None
    values: Float[Array, "B T"]


def logps_and_values(model: Model, role: str, temperature: float) -> Callable[..., LogpsAndValues]:
    """Log-probabilities of the policy, and values: of a tree that has both heads in one pass.

    Args:
      model: functions of all roles. One of one's own without `Model.read` is read twice.
      role: whose scalar head: "critic", or "policy" where it shares the trunk.
      temperature: of the distribution.

    Returns:
      (trees, batch, *, entropy) -> what `token_logps` and `values` say. Gradients flow.

    Raises:
      ValueError: the model has no scalar head.
    """
    value_of = values(model, role)
    at_once: Any = model.role("policy").read if role == "policy" else None

    def read(trees: Trees, batch: PolicyBatch, *, entropy: bool) -> LogpsAndValues:
        options: dict[str, Any] = {"temperature": temperature, "entropy": entropy}
        if at_once is None:
            return LogpsAndValues(
                *token_logps(model, trees, batch, **options), value_of(trees, batch)
            )
        rows = rows_of(batch)
        place = (trees[role], rows.tokens, rows.mask)
        found = at_once(*place, values=True, scored=rows.scored, **options, **rows.documents)
        spread = None if found.entropy is None else unpacked(batch, found.entropy)
        return LogpsAndValues(unpacked(batch, found.logps), spread, unpacked(batch, found.values))

    return read


def completion_logps(
    model: Model, role: str, *, average: bool = False, answer: int | None = None
) -> Score:
    """Log-probability of each completion of a pair, in one forward pass.

    Args:
      model: functions of all roles.
      role: "policy" or "ref".
      average: divide by the completion's length (at least 1).
      answer: 0 or 1: of this one alone, and the other is not read (in packed rows it is read where
        it is present); None: of both.

    Returns:
      (trees, batch) -> sums over the completion [B, 2], with `answer` [B], nats (nats per token
      with `average`); 0 for an empty completion. Gradients flow.
    """

    def score(trees: Trees, batch: PairBatch | UnpairedBatch) -> Float[Array, "B ..."]:
        if answer is not None and batch.packed is None:
            rows = _answers(batch, answer)
            (logps,) = promote(token_logps(model, trees, rows, role=role).logps)
            total = jnp.sum(masked(logps, rows.completion_mask), axis=1)
            return total / completion_lengths(batch)[:, answer] if average else total
        (logps,) = promote(token_logps(model, trees, batch, role=role).logps)
        mask = batch.completion_mask.reshape(logps.shape)
        total = jnp.sum(masked(logps, mask), axis=1).reshape(-1, 2)
        total = total / completion_lengths(batch) if average else total
        return total if answer is None else total[:, answer]

    return score


def _answers(batch: PairBatch | UnpairedBatch, answer: int) -> TokenBatch:
    """One of the two answers of each pair, as rows."""
    scored = None if batch.scored is None else batch.scored[:, answer]
    return TokenBatch(
        batch.tokens[:, answer],
        batch.mask[:, answer],
        batch.completion_mask[:, answer],
        scored=scored,
    )


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
        read = rows_of(batch)
        scores = unpacked(batch, head(trees[role], read.tokens, read.mask, **read.documents))
        mask = batch.mask.reshape(scores.shape)
        last = jnp.maximum(jnp.sum(mask, axis=1) - 1, 0)
        return jnp.take_along_axis(scores, last[:, None], axis=1).reshape(-1, 2)

    return score


def completion_lengths(batch: PairBatch | UnpairedBatch) -> Float[Array, "B 2"]:
    """Tokens of each completion, at least 1."""
    return jnp.maximum(jnp.sum(batch.completion_mask, axis=2), 1).astype(default_float())


class Rows(NamedTuple):
    """What a model reads of a batch: its rows, or the packed ones."""

    tokens: Int[Array, "R L"]
    mask: Bool[Array, "R L"]
    scored: Int[Array, "R S"] | None
    documents: dict[str, Any]
    """Where a row holds several: their numbers and the length of the longest, by argument."""


def rows_of(batch: Batch) -> Rows:
    """Rows of tokens; the two answers of a pair are rows of their own.

    Args:
      batch: of B rows or pairs, packed or not.
    """
    if batch.packed is not None and batch.room is not None:
        packed = batch.packed
        room = batch.room
        documents = {
            "segment_ids": packed.segment_ids,
            "longest": room.longest,
            # The sequences of a group lie side by side, behind what they share.
            "reach": room.group * room.longest,
        }
        if packed.prefix_ids is not None:
            documents |= {"prefix_ids": packed.prefix_ids, "positions": packed.positions}
        return Rows(packed.tokens, packed.segment_ids > 0, packed.scored, documents)
    width = batch.tokens.shape[-1]
    scored = batch.scored
    segment_ids = batch.segment_ids if isinstance(batch, TokenBatch) else None
    return Rows(
        batch.tokens.reshape(-1, width),
        batch.mask.reshape(-1, width),
        None if scored is None else scored.reshape(-1, scored.shape[-1]),
        {} if segment_ids is None else {"segment_ids": segment_ids},
    )


def unpacked(batch: Batch, found: Float[Array, "R L"]) -> Float[Array, "N T"]:
    """What a model said of `rows_of(batch)`, in the batch's own rows (pairs: two each).

    Args:
      batch: packed or not.
      found: a number of every token that was read.

    Returns:
      N = B, or 2 B of pairs; 0 where the token is not in this part. Gradients flow.
    """
    if batch.packed is None:
        return found
    places = batch.packed.places.reshape(-1, batch.tokens.shape[-1])
    return jnp.where(places >= 0, found.reshape(-1)[jnp.maximum(places, 0)], 0)


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
