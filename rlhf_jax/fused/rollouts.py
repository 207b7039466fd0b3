"""Completions inside one program: prompts drawn, sampled and rewarded, dynamic sampling,
evaluation. See `loop`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.checked import checked
from rlhf_jax.fields import documented
from rlhf_jax.rollout import SamplingParams, generate
from rlhf_jax.types import Key, Metrics, Model, Params, PolicyBatch, Rollout, Sampling


@documented
class PromptSet(NamedTuple):
    """Prompts on the device, and what the reward compares completions with."""

    tokens: Int[Array, "N Tp"]
    """Right-padded."""
    lengths: Int[Array, " N"]
    """Tokens of each prompt, at least 1."""
    answers: Any = None
    """Arrays that lead with N, handed to the reward; None when it needs none."""


RewardFn: TypeAlias = Callable[[Rollout, Any], Float[Array, " B"]]
"""(rollout, answers of its rows) -> rewards; jittable. NaN: could not be graded."""


@checked
@dataclass(frozen=True, kw_only=True)
class GenerationShape:
    """What generation is compiled for."""

    max_new_tokens: int
    """Tokens of a completion at most, EOS included."""
    eos_id: int | tuple[int, ...]
    """What ends a completion: a token, or `FastTokenizer.stop_ids`. Stop strings need the host and
    have no place here."""
    pad_id: int
    """Fills tokens off the mask."""
    missing_ids: tuple[int, ...] = ()
    """Ids that no token has, which are never sampled:
    `FastTokenizer.missing_ids(model.config.vocab_size)`."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} must be at least 1")

    @property
    def chunk(self) -> int:
        """Tokens decoded between two looks at whether all rows are finished: short completions want
        no more than they have."""
        return max(1, min(16, self.max_new_tokens - 1))


def sample(
    model: Model,
    params: Params,
    prompts: PromptSet,
    key: Key,
    *,
    shape: GenerationShape,
    reward: RewardFn,
    temperature: Any = 1.0,
    group_size: int = 1,
) -> PolicyBatch:
    """Completions of every prompt with their rewards, marked as sampled by the current policy.

    Args:
      model: policy.
      params: its tree.
      prompts: P of them.
      key: of all draws.
      shape: what generation is compiled for.
      reward: of the completions.
      temperature: of sampling; 0 is greedy.
      group_size: completions per prompt, G.

    Returns:
      A batch of P * G rows, not scored yet.
    """
    rollout = generate(
        model,
        params,
        prompts.tokens,
        prompts.lengths,
        key,
        sampling=SamplingParams(temperature=temperature),
        group_size=group_size,
        chunk=shape.chunk,
        max_new_tokens=shape.max_new_tokens,
        eos_id=shape.eos_id,
        pad_id=shape.pad_id,
        missing_ids=shape.missing_ids,
    )
    rewards = reward(
        rollout, jax.tree.map(lambda x: jnp.repeat(x, group_size, axis=0), prompts.answers)
    )
    return PolicyBatch(
        rollout.tokens,
        rollout.mask,
        rollout.completion_mask,
        rewards.astype(jnp.float32),
        rollout.truncated,
        scored=jnp.repeat(prompts.lengths, group_size)[:, None]
        + jnp.arange(shape.max_new_tokens)[None, :],
        sampler_logps=rollout.logps,
        on_policy=jnp.ones(rewards.shape, bool),
    )


def make_evaluate(
    model: Model,
    reward: RewardFn,
    shape: GenerationShape,
    *,
    samples: int = 4,
    temperature: float = 1.0,
) -> Callable[[Params, PromptSet, Key], Metrics]:
    """Builds the evaluation of a policy on held-out prompts.

    Args:
      model: policy.
      reward: of the completions; above 0 is right.
      shape: what generation is compiled for.
      samples: completions per prompt for the sampled figures, k.
      temperature: of these.

    Returns:
      (params, prompts, key) -> metrics: eval/greedy (mean reward of the greedy completions),
      eval/mean@k (of the sampled ones), eval/pass@k (share of prompts with at least one right
      answer in k). Pure.
    """

    def evaluate(params: Params, prompts: PromptSet, key: Key) -> Metrics:
        def rewards(temperature: float, group_size: int) -> Float[Array, "P G"]:
            batch = sample(
                model,
                params,
                prompts,
                key,
                shape=shape,
                reward=reward,
                temperature=temperature,
                group_size=group_size,
            )
            return batch.rewards.reshape(-1, group_size)

        sampled = rewards(temperature, samples)
        return {
            "eval/greedy": jnp.nanmean(rewards(0.0, 1)),
            f"eval/mean@{samples}": jnp.nanmean(sampled),
            f"eval/pass@{samples}": jnp.any(sampled > 0, axis=1).mean(),
        }

    return evaluate


def make_collect(
    sampling: Sampling, model: Model, *, batch_size: int, shape: GenerationShape, reward: RewardFn
) -> Callable[[Params, PromptSet, Key], tuple[PolicyBatch, Metrics]]:
    """Builds the first half of a step: prompts drawn, completed and rewarded.

    Prompts come in a random order without repetition until all were asked in this step. With
    `Sampling.keep` (dynamic sampling) batches are generated until `batch_size` groups are worth
    training on or `max_generation_batches` is reached, and the first ones are taken. This differs
    from the online loop: surplus groups are dropped, not carried over to the next step, and when
    too few are found the rest of the batch is filler rows without weight
    (`on_cap="train_partial"`); a step that finds none changes no parameter.

    Args:
      sampling: what the algorithm wants (`Algorithm.sampling`).
      model: policy.
      batch_size: prompts per step, P.
      shape: what generation is compiled for.
      reward: of the completions; for dynamic sampling, above 0 is right.

    Returns:
      (params of the policy, prompts, key) -> (batch of P * group_size rows, metrics). Metrics of
      dynamic sampling: data/generation_batches, data/groups_generated, data/groups_kept,
      data/groups_all_right, data/groups_all_wrong.

    Raises:
      ValueError: an option that exists in the online loop only, or no cap.
    """
    group_size = sampling.group_size

    def draw(
        params: Params, prompts: PromptSet, key: Key, index: int | Int[Array, ""]
    ) -> PolicyBatch:
        """The generation batch of this number; all numbers of a step share one order of the
        prompts."""
        order_key, sample_key = jax.random.split(key)
        count = prompts.tokens.shape[0]
        order = jax.random.permutation(order_key, count)
        rows = order[(index * batch_size + jnp.arange(batch_size)) % count]
        return sample(
            model,
            params,
            jax.tree.map(lambda x: x[rows], prompts),
            jax.random.fold_in(sample_key, index),
            shape=shape,
            reward=reward,
            temperature=sampling.temperature,
            group_size=group_size,
        )

    def collect_one(params: Params, prompts: PromptSet, key: Key) -> tuple[PolicyBatch, Metrics]:
        return draw(params, prompts, key, 0), {}

    if sampling.keep is None:
        return collect_one
    keep = sampling.keep
    for name, value, only in (
        ("accuracy_reward", sampling.accuracy_reward, None),
        ("on_cap", sampling.on_cap, "train_partial"),
        ("retire_pass_rate", sampling.retire_pass_rate, None),
    ):
        if value != only:
            raise ValueError(
                f"{name}={value!r} exists in the online loop only: the fused loop has "
                f"{name}={only!r}"
            )
    if sampling.max_generation_batches is None:
        raise ValueError("max_generation_batches=None: a program needs an end, so give a number")
    most = sampling.max_generation_batches

    def collect(params: Params, prompts: PromptSet, key: Key) -> tuple[PolicyBatch, Metrics]:
        def more(carry: _Collected) -> Bool[Array, ""]:
            return (carry.kept < batch_size) & (carry.batches < most)

        def body(carry: _Collected) -> _Collected:
            return _add(carry, draw(params, prompts, key, carry.batches), group_size, keep)

        empty = _empty(jax.eval_shape(draw, params, prompts, key, 0), shape.pad_id)
        done = lax.while_loop(more, body, empty)
        return done.batch, {
            "data/generation_batches": done.batches.astype(jnp.float32),
            "data/groups_generated": (done.batches * batch_size).astype(jnp.float32),
            "data/groups_kept": jnp.minimum(done.kept, batch_size).astype(jnp.float32),
            "data/groups_all_right": done.all_right.astype(jnp.float32),
            "data/groups_all_wrong": done.all_wrong.astype(jnp.float32),
        }

    return collect


class _Collected(NamedTuple):
    """The groups kept so far."""

    batch: PolicyBatch
    """Places not filled yet hold rows without a completion and with the reward NaN: they carry no
    weight."""
    batches: Int[Array, ""]
    kept: Int[Array, ""]
    """Mixed groups found, those that no longer fitted included."""
    all_right: Int[Array, ""]
    all_wrong: Int[Array, ""]


def _empty(like: PolicyBatch, pad_id: int) -> _Collected:
    zero = jnp.zeros((), jnp.int32)
    blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    tokens, rewards, scored = (
        jnp.full_like(x, filler)
        for x, filler in ((blank.tokens, pad_id), (blank.rewards, jnp.nan), (blank.scored, -1))
    )
    blank = blank._replace(tokens=tokens, rewards=rewards, scored=scored)
    return _Collected(blank, zero, zero, zero, zero)


def _add(
    carry: _Collected, new: PolicyBatch, group_size: int, keep: Callable[[Any, Any], Any]
) -> _Collected:
    """The mixed groups of one more generation batch, as many as there is room for, behind those
    that are there."""
    rewards = new.rewards.reshape(-1, group_size)
    graded = ~jnp.isnan(rewards)
    mixed = keep(rewards > 0, graded)
    groups = mixed.shape[0]
    place = jnp.where(mixed, carry.kept + jnp.cumsum(mixed) - 1, groups)

    def put(old: Array, rows: Array) -> Array:
        in_groups = (groups, group_size, *old.shape[1:])
        return (
            old.reshape(in_groups)
            .at[place]
            .set(rows.reshape(in_groups), mode="drop")
            .reshape(old.shape)
        )

    right = jnp.any((rewards > 0) & graded, axis=1)
    wrong = jnp.any((rewards <= 0) & graded, axis=1)
    return _Collected(
        jax.tree.map(put, carry.batch, new),
        carry.batches + 1,
        carry.kept + jnp.sum(mixed, dtype=jnp.int32),
        carry.all_right + jnp.sum(right & ~wrong, dtype=jnp.int32),
        carry.all_wrong + jnp.sum(wrong & ~right, dtype=jnp.int32),
    )
