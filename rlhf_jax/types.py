"""Shared types: array aliases, batches, and the two NamedTuples of pure functions, `Model` and
`Algorithm`.

Shapes: B sequences (or pairs), T tokens, S scored columns, V vocabulary, D width.

Conventions that hold everywhere (DESIGN section 3):

* per-token arrays are ``[B, T]`` and aligned to the token predicted:
  ``logps[:, t] = log p(tokens[:, t] | tokens[:, :t])``, column 0 is 0;
* a ``mask`` is bool and True means keep; ``weights`` are float and 0 off the mask;
* sequences are right-padded; masks come from lengths, never from token ids;
* metrics are already weighted: summing them over microbatches gives the value of the whole batch,
  except keys ending in ``_max`` or ``_min``, which are reduced by max and min.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Array, Bool, Float, Int

Params: TypeAlias = Mapping[str, Any]
"""Nested dict of arrays."""

Metrics: TypeAlias = dict[str, Array]
"""Metric name -> float32 scalar."""

Key: TypeAlias = Array
"""A typed JAX PRNG key (`jax.random.key`)."""


class TokenBatch(NamedTuple):
    """Rows of tokens to imitate (SFT).

    Every array leads with the batch axis, so that a batch can be split into microbatches and
    sharded leaf by leaf.
    """

    tokens: Int[Array, "B T"]
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


class PairBatch(NamedTuple):
    """Preference pairs. Axis 1 is (chosen, rejected)."""

    tokens: Int[Array, "B 2 T"]
    mask: Bool[Array, "B 2 T"]
    completion_mask: Bool[Array, "B 2 T"]
    valid: Bool[Array, " B"]
    """False for a filler pair that only completes the batch's shape."""
    scored: Int[Array, "B 2 S"] | None = None
    ref_logps: Float[Array, "B 2"] | None = None
    """Sum of the reference's log-probabilities over the completion, nats."""
    margin: Float[Array, " B"] | None = None
    """Annotated preference strength, reward units."""
    weights: Float[Array, " B"] | None = None
    """Filled by `Algorithm.weigh`."""


class PolicyBatch(NamedTuple):
    """Sampled completions with their rewards (PPO, GRPO, DAPO). Rows are group-major: `G`
    consecutive rows share a prompt."""

    tokens: Int[Array, "B T"]
    mask: Bool[Array, "B T"]
    completion_mask: Bool[Array, "B T"]
    """Token was chosen by the policy, EOS included."""
    rewards: Float[Array, " B"]
    """Score of the whole completion; NaN = could not be graded."""
    truncated: Bool[Array, " B"]
    """Reached the length limit without EOS."""
    scored: Int[Array, "B S"] | None = None
    sampler_logps: Float[Array, "B T"] | None = None
    """Log-probabilities reported by the sampler, nats."""
    old_logps: Float[Array, "B T"] | None = None
    """Log-probabilities under the policy before the update, by the trainer's own score function,
    nats."""
    ref_logps: Float[Array, "B T"] | None = None
    values: Float[Array, "B T"] | None = None
    """Critic's value of the state in which token t is chosen (aligned like logps)."""
    advantages: Float[Array, "B T"] | None = None
    returns: Float[Array, "B T"] | None = None
    weights: Float[Array, "B T"] | None = None
    on_policy: Bool[Array, " B"] | None = None
    """The row was sampled by the very parameters that the loss differentiates: its importance ratio
    is exactly 1 and its `old_logps` are not read. None: read `old_logps` everywhere."""


class Rollout(NamedTuple):
    """Completions sampled by `rlhf_jax.rollout`. Rows are group-major: `G` consecutive rows share a
    prompt."""

    tokens: Int[Array, "B T"]
    """Prompt, directly followed by the completion, then padding."""
    mask: Bool[Array, "B T"]
    completion_mask: Bool[Array, "B T"]
    """Token was sampled, EOS included."""
    logps: Float[Array, "B T"]
    """Of the sampled tokens at the sampling temperature, nats; 0 off the completion."""
    truncated: Bool[Array, " B"]
    """Reached its length limit without EOS."""


Batch: TypeAlias = TokenBatch | PairBatch | PolicyBatch


@runtime_checkable
class TokenLogpsFn(Protocol):
    """Log-probability and entropy of taken tokens without logits (fused head)."""

    def __call__(
        self,
        params: Params,
        tokens: Int[Array, "B T"],
        mask: Bool[Array, "B T"],
        *,
        segment_ids: Int[Array, "B T"] | None = None,
        scored: Int[Array, "B S"] | None = None,
        temperature: float = 1.0,
    ) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]: ...


@runtime_checkable
class PerTokenFn(Protocol):
    """(params, tokens[B,T], mask[B,T], *, segment_ids=None) -> an array that leads with [B, T]."""

    def __call__(
        self,
        params: Params,
        tokens: Int[Array, "B T"],
        mask: Bool[Array, "B T"],
        *,
        segment_ids: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T ..."]: ...


class Model(NamedTuple):
    """A decoder as pure functions of a nested dict of parameters. Made by `rlhf_jax.models`.

    `hidden[:, t]` is the state *after* reading token t; `logits[:, t]` predicts token t+1;
    `scores[:, t]` is the scalar head (reward or value) read at token t. `token_logps` is aligned to
    the token predicted.
    """

    config: Any
    """Architecture (`rlhf_jax.models.ModelConfig`), hashable."""
    hidden: PerTokenFn
    """[B, T, D], after the final norm."""
    logits: PerTokenFn
    """[B, T, V] float32; for inspection and tests, training uses `token_logps`."""
    token_logps: TokenLogpsFn
    scores: PerTokenFn | None = None
    """[B, T] float32; None when the model has no scalar head."""
    prefill: Callable[..., Any] | None = None
    """``prefill(params, tokens[P, Tp], lengths[P], *, row_length) -> (logits[P, V],
    prompt_cache)``: reads right-padded prompts; the logits are those after each prompt's last
    token. The cache is a pytree of keys and values; `cache.take(rows)`, `cache.empty(rows, slots)`
    and `cache.grown(slots)` make others of it. `row_length` (static) is the width of prompt and
    completion together: more than the learned positions of a model that has such is refused. None
    without a language-model head."""
    decode: Callable[..., Any] | None = None
    """``decode(params, tokens[B], cache, prompt_cache, *, prompt_lengths[B], num_generated[B], slot,
    row_length) -> (logits[B, V], cache)``: reads one more token of every completion. `cache` is a
    ring: the token's keys and values go to `slot` in all rows, and a row sees its `num_generated`
    newest entries (its completion so far) and this one. `prompt_cache` has a row per completion, or
    fewer: then consecutive completions share one. None without a language-model head."""


@runtime_checkable
class LossFn(Protocol):
    """What `value_and_grad` sees: differentiable in `params` only."""

    def __call__(
        self, params: Params, frozen: Params, batch: Any, key: Key
    ) -> tuple[Float[Array, ""], Metrics]: ...


class Algorithm(NamedTuple):
    """An algorithm as pure functions. Made by `rlhf_jax.algorithms.ALGORITHMS[name](config,
    model)`."""

    loss: LossFn
    """Per microbatch. Reads `batch.weights`."""
    prepare: Callable[[Any, Params], tuple[Any, Params, Metrics]]
    """Once per batch, before `loss`: (batch, aux) -> (batch, aux, metrics). Fills advantages and
    returns; identity offline."""
    weigh: Callable[[Any], Any]
    """Once per optimizer step, over the global batch: batch -> batch with `weights`."""
    needs: frozenset[str]
    """Batch fields that the loop must score first: any of 'old_logps', 'ref_logps', 'values'."""
    frozen: frozenset[str] = frozenset()
    """Trees of parameters that `loss` reads from `frozen` and training does not change: 'ref'."""
    aux: Params = {}
    """Initial value of the algorithm's own state (the adaptive KL coefficient); lives in TrainState
    and is checkpointed."""
