"""Batches: the arrays that losses read, each a NamedTuple that leads with its rows.

Shapes: B sequences (or pairs), T tokens, S scored columns. The conventions of `rlhf_jax.types`
hold, which hands all of these on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import jax
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.fields import documented


@documented
@jax.tree_util.register_static
@dataclass(frozen=True)
class Room:
    """How much a model reads at a time where sequences are packed. Static: a program for each."""

    rows: int
    """Of a part, R; divided over the devices of the batch axis."""
    width: int
    """Tokens of a row, L; a whole example fits into one part."""
    longest: int
    """No sequence has more tokens: attention looks no further back."""
    scored: int | None = None
    """Trained tokens of a row at most, S."""
    group: int = 1
    """So many consecutive sequences may share a prompt, which is then read once a row."""
    single: bool = False
    """All fits into one part. Otherwise there are as many as it takes, counted on the device."""


@documented
class Packed(NamedTuple):
    """What a model reads in place of a batch's rows (`training.packing`): several to a row."""

    tokens: Int[Array, "R L"]
    """Sequences behind each other, then padding."""
    segment_ids: Int[Array, "R L"]
    """Number of the sequence, from 1; 0 where there is none."""
    scored: Int[Array, "R S"] | None
    """As in a batch: columns of trained tokens."""
    places: Int[Array, "B T"] | Int[Array, "B 2 T"]
    """Where in the R * L each token lies; -1: in another part, or in a shared prompt."""
    prefix_ids: Int[Array, "R L"] | None = None
    """The segment of the prompt that a token shares; -1: none."""
    positions: Int[Array, "R L"] | None = None
    """In the token's own sequence; with `prefix_ids`."""


@documented
class TokenBatch(NamedTuple):
    """Rows of tokens to imitate (SFT).

    Every array leads with the batch axis, so that a batch can be split into microbatches and
    sharded leaf by leaf.
    """

    tokens: Int[Array, "B T"]
    """Ids, right-padded."""
    mask: Bool[Array, "B T"]
    """Token is present (not padding)."""
    completion_mask: Bool[Array, "B T"]
    """Token is trained on. A subset of `mask`; a filler row is all False."""
    segment_ids: Int[Array, "B T"] | None = None
    """Packed documents, numbered from 1 in each row; 0 on padding. None: one document per row."""
    scored: Int[Array, "B S"] | None = None
    """Columns whose log-probability is computed (the head skips all others); -1 is filler. None:
    all columns."""
    weights: Float[Array, "B T"] | None = None
    """Filled by `Algorithm.weigh`."""
    room: Room | None = None
    """Pack the sequences into this much room; None: a row each."""
    packed: Packed | None = None
    """One part of it, during a loss or a score."""


@documented
class PairBatch(NamedTuple):
    """Preference pairs. Axis 1 is (chosen, rejected)."""

    tokens: Int[Array, "B 2 T"]
    """Ids of prompt and answer, right-padded; `[:, 0]` chosen, `[:, 1]` rejected."""
    mask: Bool[Array, "B 2 T"]
    """Token is present (not padding)."""
    completion_mask: Bool[Array, "B 2 T"]
    """Token is of the answer, whose log-probability counts."""
    valid: Bool[Array, " B"]
    """False for a filler pair that only completes the batch's shape."""
    scored: Int[Array, "B 2 S"] | None = None
    """As in `TokenBatch`."""
    ref_logps: Float[Array, "B 2"] | None = None
    """Sum of the reference's log-probabilities over the completion, nats."""
    margin: Float[Array, " B"] | None = None
    """Annotated preference strength, reward units."""
    weights: Float[Array, " B"] | Mapping[str, Array] | None = None
    """Filled by `Algorithm.weigh`."""
    policy_logps: Float[Array, "B 2"] | None = None
    """As `ref_logps`, of the policy before the step."""
    matches: Float[Array, "B 3"] | None = None
    """Log-ratios of other pairs of the batch (`algorithms.pair_losses.match_quantiles`)."""
    room: Room | None = None
    """As in `TokenBatch`."""
    packed: Packed | None = None
    """As in `TokenBatch`."""


@documented
class UnpairedBatch(NamedTuple):
    """Answers with a verdict each (KTO). Axis 1 is (the answer, an answer to another prompt): the
    second stands behind the same prompt, and is scored but never trained on."""

    tokens: Int[Array, "B 2 T"]
    """Ids of prompt and answer, right-padded."""
    mask: Bool[Array, "B 2 T"]
    """Token is present (not padding)."""
    completion_mask: Bool[Array, "B 2 T"]
    """Token is of the answer, whose log-probability counts."""
    valid: Bool[Array, " B"]
    """False for a filler row that only completes the batch's shape."""
    label: Bool[Array, " B"]
    """The answer is desirable."""
    scored: Int[Array, "B 2 S"] | None = None
    """As in `TokenBatch`."""
    ref_logps: Float[Array, "B 2"] | None = None
    """Sum of the reference's log-probabilities over the completion, nats."""
    unrelated_logps: Float[Array, " B"] | None = None
    """The same of the second answer, of the policy before the step."""
    baseline: Float[Array, " B"] | None = None
    """What log-ratios of the batch are compared with, the same in every row, nats."""
    shares: Float[Array, "B 2"] | None = None
    """Of a row in the mean over (desirable, undesirable) answers of the batch; NaN in all rows
    where there is none of them."""
    weights: Float[Array, " B"] | None = None
    """Filled by `Algorithm.weigh`."""
    room: Room | None = None
    """As in `TokenBatch`."""
    packed: Packed | None = None
    """As in `TokenBatch`."""


@documented
class PolicyBatch(NamedTuple):
    """Sampled completions with their rewards (PPO, GRPO, DAPO). Rows are group-major: `G`
    consecutive rows share a prompt."""

    tokens: Int[Array, "B T"]
    """Prompt, directly followed by the completion, then padding."""
    mask: Bool[Array, "B T"]
    """Token is present (not padding)."""
    completion_mask: Bool[Array, "B T"]
    """Token was chosen by the policy, EOS included."""
    rewards: Float[Array, " B"]
    """Score of the whole completion; NaN = could not be graded."""
    truncated: Bool[Array, " B"]
    """Reached the length limit without EOS."""
    scored: Int[Array, "B S"] | None = None
    """As in `TokenBatch`."""
    sampler_logps: Float[Array, "B T"] | None = None
    """Log-probabilities reported by the sampler, nats."""
    old_logps: Float[Array, "B T"] | None = None
    """Log-probabilities under the policy before the update, by the trainer itself, nats."""
    ref_logps: Float[Array, "B T"] | None = None
    """Log-probabilities under the reference, nats."""
    values: Float[Array, "B T"] | None = None
    """Critic's value of the state in which token t is chosen (aligned like logps)."""
    advantages: Float[Array, "B T"] | None = None
    """How much better than expected each token was, reward units (or deviations); 0 off the
    completion. Filled by `Algorithm.prepare`."""
    returns: Float[Array, "B T"] | None = None
    """What the critic learns to predict; filled by `Algorithm.prepare`."""
    weights: Float[Array, "B T"] | None = None
    """Filled by `Algorithm.weigh`."""
    on_policy: Bool[Array, " B"] | None = None
    """Sampled by the very parameters that the loss differentiates: the row's importance ratio is
    exactly 1 and its `old_logps` are not read. None: read `old_logps` everywhere."""
    room: Room | None = None
    """As in `TokenBatch`."""
    packed: Packed | None = None
    """As in `TokenBatch`."""


@documented
class Rollout(NamedTuple):
    """Completions sampled by `rlhf_jax.rollout`, group-major as in `PolicyBatch`."""

    tokens: Int[Array, "B T"]
    """Prompt, directly followed by the completion, then padding."""
    mask: Bool[Array, "B T"]
    """Token is present (not padding)."""
    completion_mask: Bool[Array, "B T"]
    """Token was sampled, EOS included."""
    logps: Float[Array, "B T"]
    """Of the sampled tokens at the sampling temperature, nats; 0 off the completion."""
    truncated: Bool[Array, " B"]
    """Reached its length limit without EOS."""


Batch: TypeAlias = TokenBatch | PairBatch | UnpairedBatch | PolicyBatch
