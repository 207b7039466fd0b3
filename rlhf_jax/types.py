"""Shared types: array aliases, batches, `Model`, and the contract of an algorithm.

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
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.batches import Batch as Batch
from rlhf_jax.batches import Packed as Packed
from rlhf_jax.batches import PairBatch as PairBatch
from rlhf_jax.batches import PolicyBatch as PolicyBatch
from rlhf_jax.batches import Rollout as Rollout
from rlhf_jax.batches import Room as Room
from rlhf_jax.batches import TokenBatch as TokenBatch
from rlhf_jax.batches import UnpairedBatch as UnpairedBatch
from rlhf_jax.fields import documented

Params: TypeAlias = Mapping[str, Any]
"""Nested dict of arrays."""

Metrics: TypeAlias = dict[str, Array]
"""Metric name -> float32 scalar."""

Key: TypeAlias = Array
"""A typed JAX PRNG key."""


@documented
class TokenLogps(NamedTuple):
    """What a model says of the tokens that were taken."""

    logps: Float[Array, "B T"]
    """Nats."""
    entropy: Float[Array, "B T"] | None
    """Of the distribution that each was taken from, nats; None: nothing reads it."""


class TokenStats(NamedTuple):
    """`TokenLogps` and more."""

    logps: Float[Array, "B T"]
    entropy: Float[Array, "B T"] | None
    top: Float[Array, "B T"] | None
    """1 where no token was likelier; None: nothing reads it, or the model does not tell."""


@documented
class Reading(NamedTuple):
    """What one pass through a model says of the tokens that were taken, aligned to them. None is
    what was not asked for."""

    logps: Float[Array, "B T"] | None = None
    """Nats."""
    entropy: Float[Array, "B T"] | None = None
    """Of the distribution that each was taken from, nats."""
    top: Float[Array, "B T"] | None = None
    """1 where no token was likelier."""
    values: Float[Array, "B T"] | None = None
    """The scalar head read one token earlier, before the token was chosen."""


@runtime_checkable
class TokenLogpsFn(Protocol):
    """Log-probability and entropy of taken tokens without logits. Batches with `room` also give
    `longest` and `reach` (ints), and where prompts are shared `prefix_ids` and `positions`."""

    def __call__(
        self,
        params: Params,
        tokens: Int[Array, "B T"],
        mask: Bool[Array, "B T"],
        *,
        segment_ids: Int[Array, "B T"] | None = None,
        scored: Int[Array, "B S"] | None = None,
        temperature: float = 1.0,
        entropy: bool = True,
        **documents: Any,
    ) -> tuple[Float[Array, "B T"], Float[Array, "B T"] | None]: ...


@runtime_checkable
class PerTokenFn(Protocol):
    """(params, tokens[B,T], mask[B,T], *, segment_ids=None) -> an array [B, T, ...]."""

    def __call__(
        self,
        params: Params,
        tokens: Int[Array, "B T"],
        mask: Bool[Array, "B T"],
        *,
        segment_ids: Int[Array, "B T"] | None = None,
        **documents: Any,
    ) -> Float[Array, "B T ..."]: ...


@documented
class Model(NamedTuple):
    """A decoder as pure functions of a nested dict of parameters. Made by `rlhf_jax.models`.

    `hidden[:, t]` is the state *after* reading token t; `logits[:, t]` predicts token t+1;
    `scores[:, t]` is the scalar head (reward or value) read at token t. `token_logps` is aligned to
    the token predicted. What needs a head that the model lacks is None.
    """

    config: Any
    """Architecture (`rlhf_jax.models.ModelConfig`), hashable."""
    hidden: PerTokenFn
    """[B, T, D], after the final norm."""
    logits: PerTokenFn
    """[B, T, V] float32; for inspection and tests, training uses `token_logps`."""
    token_logps: TokenLogpsFn
    """``token_logps(params, tokens[B, T], mask[B, T]) -> (logps[B, T], entropy[B, T])``, both in
    nats, without logits in memory; see `TokenLogpsFn` for its options."""
    scores: PerTokenFn | None = None
    """[B, T] float32."""
    prefill: Callable[..., Any] | None = None
    """``prefill(params, tokens[P, Tp], lengths[P], *, row_length) -> (logits[P, V],
    prompt_cache)``: reads right-padded prompts; the logits are those after each prompt's last
    token. The cache is a pytree of keys and values; `cache.empty(rows, slots)` and
    `cache.grown(slots)` make others of it; slots that are refilled need the other functions of
    `rlhf_jax.models.cache.KVCache` too. `row_length` (static) is the width of prompt and completion
    together: more than the learned positions of a model that has such is refused."""
    decode: Callable[..., Any] | None = None
    """``decode(params, tokens[B], cache, prompt_cache, *, prompt_lengths[B], num_generated[B],
    slot, row_length) -> (logits[B, V], cache)``: reads one more token of every completion. `cache`
    is a ring: the token's keys and values go to `slot` in all rows, and a row sees its
    `num_generated` newest entries (its completion so far) and this one. `prompt_cache` has a row
    per completion, or fewer: then consecutive completions share one."""
    roles: tuple[tuple[str, "Model"], ...] = ()
    """(role, functions) of the trees of another architecture: a critic or a teacher of its own."""
    lay_out: Callable[[Params], Params] | None = None
    """What `prefill` and `decode` read faster than `params`; who replaces them, replaces it."""
    tells_top: bool = False
    """`token_logps` takes ``top=True``, and then returns a third array: `TokenStats.top`."""
    read: Callable[..., Reading] | None = None
    """``read(params, tokens[B, T], mask[B, T], *, logps, values, scored, temperature, entropy,
    top)`` -> `Reading`: log-probabilities and values of one pass, 0 off the scored columns. None:
    whoever wants both asks `token_logps` and `scores`, a pass each."""

    def role(self, name: str) -> "Model":
        """The functions for the tree of a role: its own where it has some, else these."""
        return dict(self.roles).get(name, self)


Trees: TypeAlias = Mapping[str, Params]
"""Role -> tree: "policy", "critic", "ref", with adapters also "base". Trained are those in
`TrainState.params`; the others are frozen. A role may be both: with adapters the trained "policy"
is the adapter, and what the loss sees is base and adapter together (`training.make_step`)."""

Score: TypeAlias = Callable[[Trees, Any], Array]
"""(trees, batch) -> one field of the batch, leading with its rows. In microbatches, no gradient."""


@dataclass(frozen=True)
class OneOf:
    """A `Score` that shares its pass with others: scores that hold the same function are computed
    by one call of it (`training.make_score`)."""

    several: Callable[[Trees, Any], Mapping[str, Array]]
    """(trees, batch) -> field -> array."""
    field: str
    """Which of them this is."""

    def __call__(self, trees: Trees, batch: Any) -> Array:
        """This field alone."""
        return self.several(trees, batch)[self.field]


@runtime_checkable
class LossFn(Protocol):
    """A loss of one microbatch; reads `batch.weights`; differentiable in what is trained."""

    def __call__(self, trees: Trees, batch: Any, key: Key) -> tuple[Float[Array, ""], Metrics]: ...


@documented
class Trained(NamedTuple):
    """One trained tree."""

    head: Literal["reward", "value"] | None = None
    """Scalar head: "reward" in place of the language-model head, "value" beside it."""
    learning_rate: float | None = None
    """Peak; None: that of the optimizer section."""
    hold: int = 0
    """First updates that leave the tree as it is; its schedule begins after them."""


@documented
class Models(NamedTuple):
    """Which trees a run needs. A configuration answers before anything is loaded."""

    trained: Mapping[str, Trained] = MappingProxyType({"policy": Trained()})
    """By role. The policy is one of them."""
    reference: Literal["none", "once", "always"] = "none"
    """When "ref" is read: never; before the first step, when it may still be the start itself (then
    it leaves memory); in every step."""
    own_reference: bool = False
    """The reference may be of another architecture than the policy (a teacher). It is then
    `model.reference` of the configuration, and `Model.role("ref")` has its functions."""


@documented
class Sampling(NamedTuple):
    """What an online algorithm wants of its rollouts. A configuration answers; an `Algorithm` holds
    the same object."""

    group_size: int = 1
    """Completions per prompt, G."""
    temperature: float = 1.0
    """Of sampling, and of every log-probability that enters a ratio."""
    num_epochs: int = 1
    """Passes over a batch of completions."""
    num_minibatches: int = 1
    """Optimizer steps per pass."""
    least_group: int = 1
    """Smallest `group_size` that makes sense: 2 where completions of a prompt are compared."""
    rewarded: bool = True
    """Whether completions are graded at all; False for distillation, which needs no reward."""
    keep: Callable[[Any, Any], Any] | None = None
    """(correct [N, G], graded [N, G]) -> bool [N]: groups worth training on, for NumPy and JAX
    arrays alike. Where a reward model judges, "correct" is above the lowest reward of the group.
    None: all."""
    accuracy_reward: str | tuple[str, ...] | None = None
    """Who says right or wrong (see `rewards.judging`); None: the rule without names."""
    max_generation_batches: int | None = None
    """Per training batch, with `keep`; None: as many as it takes."""
    on_cap: Literal["train_partial", "raise", "skip"] = "train_partial"
    """What happens there: train on the groups there are; end with an error; leave the step out."""
    retire_pass_rate: float | None = None
    """Prompts whose share of right answers reaches this are not asked again."""

    @property
    def num_updates(self) -> int:
        """Optimizer steps per batch."""
        return self.num_epochs * self.num_minibatches

    @property
    def decides(self) -> bool:
        """Whether what is trained on depends on who says right or wrong."""
        return self.keep is not None or self.retire_pass_rate is not None


def unchanged(batch: Any, aux: Params) -> tuple[Any, Params, Metrics]:
    """The `prepare` of an algorithm that has nothing to prepare."""
    return batch, aux, {}


def trained_elements(batch: Any) -> Int[Array, ""]:
    """Elements (tokens, pairs) of non-zero weight, over all streams of weights."""
    return sum((jnp.sum(x > 0) for x in jax.tree.leaves(batch.weights)), jnp.zeros((), jnp.int32))


EMPTY: Mapping[str, Any] = MappingProxyType({})


@documented
@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """An algorithm as pure functions: everything that a loop must know; no loop asks what it is.

    Made by `rlhf_jax.algorithms.ALGORITHMS[name](config, model)`.
    """

    loss: LossFn
    """Per microbatch: (trees, batch, key) -> (loss, metrics). Reads `batch.weights`."""
    weigh: Callable[[Any], Any]
    """Once per optimizer step, over its whole batch: batch -> batch with `weights`: an array, or
    several streams by name, each with the shape of what it weighs."""
    prepare: Callable[[Any, Params], tuple[Any, Params, Metrics]] = unchanged
    """Once per batch, before `loss`: (batch, aux) -> (batch, aux, metrics). Who gets credit:
    advantages and returns; and the algorithm's own state moves on (in evaluations it is the
    first)."""
    needs: Mapping[str, Score] = field(default_factory=dict)
    """Field of the batch -> how it is computed before every step (and before an evaluation of the
    loss on held-out examples)."""
    cached: Mapping[str, Score] = field(default_factory=dict)
    """Field of the batch -> how it is computed for every example once, before the first step, from
    frozen trees alone."""
    aux: Params = field(default_factory=dict)
    """First value of the algorithm's own state (the adaptive KL coefficient); lives in the train
    state and is checkpointed."""
    elements: Callable[[Any], Any] = trained_elements
    """Weighed batch -> how many things (tokens, pairs, documents) its metrics are the mean of: the
    weight of a batch in an evaluation. Or a mapping: metric -> how many, "" for all others; where
    it is 0 the batch is left out of that metric."""
    sampling: Sampling | None = None
    """What it wants sampled; None: it trains on data that is there."""

    def __post_init__(self) -> None:
        twice = sorted(self.needs.keys() & self.cached.keys())
        if twice:
            raise ValueError(
                f"{twice[0]!r} is among needs and cached: a field is scored before every step, or "
                "once"
            )
        if self.cached and self.sampling is not None:
            raise ValueError(
                f"cached={sorted(self.cached)}: completions are new in every step; name in needs "
                "what an online algorithm reads"
            )


class AlgorithmConfig(Protocol):
    """A frozen dataclass; its fields are the keys of the section `algorithm`.

    A class variable `learning_rate`, where there is one, is the default of
    `optimizer.learning_rate`; `presets` names options that belong together
    (`algorithms.presets`). Metadata of a field (`dataclasses.field`) that the configuration
    reads: ``{"inherits": "section.key"}``, null is the value there; ``{"resumable": True}``, a run
    may go on with another value; ``{"rate_of": (role, rate)}``, the learning rate of a trained tree
    where neither it nor `optimizer.learning_rate` is given; ``{"tried": f}``, f(configuration)
    raises ValueError where a function of the user's that the field names cannot be used. It is
    called when a run starts, before any data is read.
    """

    data: ClassVar[Literal["text", "pairs", "unpaired", "prompts"]]
    """What it is trained on."""
    summary: ClassVar[str]
    """One line for `rlhf-jax algorithms`."""

    @property
    def models(self) -> Models:
        """Which trees it trains and reads."""
        ...

    @property
    def sampling(self) -> Sampling | None:
        """What it wants sampled; None for data that is there."""
        ...
