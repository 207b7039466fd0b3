"""Whole runs in one program, for tiny models: `lax.scan` over the steps inside one jit, several
seeds or settings under vmap.

    generate -> reward -> score -> prepare -> epochs        PPO, GRPO, DAPO, when the reward is a jittable function of tokens
    draw rows -> update                                     SFT, DPO, reward models, when the data is arrays

Algorithms, generation, epochs and the update step are those of the ordinary loops; only the host is
missing. Nothing here is jitted: wrap what `make_fused_loop` returns, for example
``jax.jit(jax.vmap(run, (None, None, None, 0)))`` for several seeds. On a CPU ``lax.map`` in place
of vmap gives the same and is about as fast. A vmapped run equals a single one to rounding, not bit
by bit, and sampling lets rounding grow with the steps.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array

from rlhf_jax.algorithms import ALGORITHMS, PPOConfig
from rlhf_jax.algorithms.ppo import split_params, token_values
from rlhf_jax.config import algorithm_name
from rlhf_jax.loops.fused.rollouts import (
    GenerationShape,
    OnlineConfig,
    PromptSet,
    RewardFn,
    make_collect,
)
from rlhf_jax.training import (
    TrainState,
    make_epochs,
    make_score,
    make_train_state,
    make_update_step,
)
from rlhf_jax.types import Algorithm, Key, Metrics, Model, Params, PolicyBatch

Evaluate: TypeAlias = Callable[[Params, Any, Key], Metrics]
"""(parameters, held-out data, key) -> metrics; gets the policy's tree alone where there is a critic
beside it."""

Run: TypeAlias = Callable[[Params, Any, Any, Key], tuple[TrainState, "History"]]
"""(initial parameters, training data, held-out data or None, key) -> (final state, history)."""


class History(NamedTuple):
    """Metrics of a run. Under vmap every array leads with the mapped axes."""

    steps: Metrics
    """[num_steps] each."""
    evaluations: Metrics
    """[num_steps / eval_every + 1] each: before the first step, and after every `eval_every` steps;
    empty without evaluation."""


@dataclass(frozen=True, kw_only=True)
class FusedConfig:
    """Size of a fused run."""

    num_steps: int
    """Batches: of completions online, of rows offline."""
    batch_size: int
    """Prompts, rows or pairs per step."""
    num_microbatches: int = 1
    eval_every: int = 0
    """Steps between evaluations; 0: none."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "num_microbatches"):
            if self.__dict__[name] < 1:
                raise ValueError(f"{name}={self.__dict__[name]} must be at least 1")
        if self.eval_every < 0 or (self.eval_every and self.num_steps % self.eval_every):
            raise ValueError(
                f"eval_every={self.eval_every} must divide num_steps={self.num_steps}, or be 0 for "
                "no evaluation"
            )


def make_fused_loop(
    config: OnlineConfig,
    model: Model,
    tx: optax.GradientTransformation,
    *,
    size: FusedConfig,
    shape: GenerationShape,
    reward: RewardFn,
    evaluate: Evaluate | None = None,
) -> Run:
    """Builds a whole run of PPO, GRPO or DAPO.

    The reference of the KL, where the algorithm has one, is the policy that the run starts from.
    See `make_collect` for what dynamic sampling does here.

    Args:
      config: of the algorithm; its floats may be traced (`with_traced`).
      model: policy; for PPO with a critic of its own
        `policy_model._replace(scores=critic_model.scores)`.
      tx: optimizer of all parameters.
      size: steps, prompts per step, microbatches, evaluations.
      shape: what generation is compiled for.
      reward: of completions.
      evaluate: usually `make_evaluate(...)`; must be given if and only if `size.eval_every` is not
        0.

    Returns:
      (params, prompts: `PromptSet`, held_out: whatever `evaluate` reads or None, key) -> (state,
      history). Pure.

    Raises:
      ValueError: `evaluate` and `eval_every` do not go together; an option that the fused loop has
        not.
    """
    algorithm = ALGORITHMS[algorithm_name(config)](config, model)
    collect = make_collect(config, model, batch_size=size.batch_size, shape=shape, reward=reward)
    fill = make_fill(config, algorithm, model, num_microbatches=size.num_microbatches)
    update = make_update_step(
        algorithm.loss, tx, weigh=algorithm.weigh, num_microbatches=size.num_microbatches
    )
    epochs = make_epochs(
        update, num_epochs=config.num_epochs, num_minibatches=config.num_minibatches
    )

    def run(
        params: Params, prompts: PromptSet, held_out: Any, key: Key
    ) -> tuple[TrainState, History]:
        reference = policy_of(config, params)

        def step(state: TrainState) -> tuple[TrainState, Metrics]:
            key, sample_key, update_key = jax.random.split(state.key, 3)
            batch, metrics = collect(policy_of(config, state.params), prompts, sample_key)
            batch = fill(state.params, reference, batch)
            batch, aux, prepared = algorithm.prepare(batch, state.aux)
            new, updated = epochs(state._replace(key=key, aux=aux), {}, batch, update_key)
            # no group was mixed: nothing to learn, so momentum must not move anything
            if "data/groups_kept" in metrics:
                found = metrics["data/groups_kept"] > 0
                params, opt_state = _where(
                    found, (new.params, new.opt_state), (state.params, state.opt_state)
                )
                new = new._replace(params=params, opt_state=opt_state)
            return new, metrics | prepared | updated

        def judge(state: TrainState, key: Key) -> Metrics:
            assert evaluate is not None
            return evaluate(policy_of(config, state.params), held_out, key)

        state_key, eval_key = jax.random.split(key)
        state = make_train_state(params, tx, state_key, aux=algorithm.aux)
        return _scan(step, judge, state, eval_key, size)

    _check_evaluation(evaluate, size)
    return run


def make_fused_fit(
    algorithm: Algorithm,
    tx: optax.GradientTransformation,
    *,
    size: FusedConfig,
    evaluate: Evaluate | None = None,
) -> Run:
    """Builds a whole run on data that is there already: SFT, reward models, DPO.

    Every step draws `size.batch_size` different rows. The reference of DPO, where the loss computes
    it, is the model that the run starts from.

    Args:
      algorithm: of SFT, a reward model or DPO.
      tx: optimizer.
      size: steps, rows per step, microbatches, evaluations.
      evaluate: must be given if and only if `size.eval_every` is not 0.

    Returns:
      (params, data: a batch of all rows, held_out: whatever `evaluate` reads or None, key) ->
      (state, history). Pure.

    Raises:
      ValueError: `evaluate` and `eval_every` do not go together.
    """
    update = make_update_step(
        algorithm.loss, tx, weigh=algorithm.weigh, num_microbatches=size.num_microbatches
    )

    def run(params: Params, data: Any, held_out: Any, key: Key) -> tuple[TrainState, History]:
        frozen = {"ref": params} if "ref" in algorithm.frozen else {}

        def step(state: TrainState) -> tuple[TrainState, Metrics]:
            key, draw_key, update_key = jax.random.split(state.key, 3)
            rows = jax.random.choice(
                draw_key, data.tokens.shape[0], (size.batch_size,), replace=False
            )
            batch = jax.tree.map(lambda x: jnp.asarray(x)[rows], data)
            return update(state._replace(key=key), frozen, batch, update_key)

        def judge(state: TrainState, key: Key) -> Metrics:
            assert evaluate is not None
            return evaluate(state.params, held_out, key)

        state_key, eval_key = jax.random.split(key)
        return _scan(
            step, judge, make_train_state(params, tx, state_key, aux=algorithm.aux), eval_key, size
        )

    _check_evaluation(evaluate, size)
    return run


def make_fill(
    config: OnlineConfig, algorithm: Algorithm, model: Model, *, num_microbatches: int = 1
) -> Callable[[Params, Params, PolicyBatch], PolicyBatch]:
    """Builds the scoring of a rollout: what `Algorithm.needs` names, and `old_logps` when there are
    several updates.

    One update alone divides by its own log-probabilities (`PolicyBatch.on_policy`), so nothing is
    scored for it.

    Args:
      config: of the algorithm.
      algorithm: made from it.
      model: policy, with the critic's head for PPO.
      num_microbatches: parts of the forward pass.

    Returns:
      (params of the algorithm, reference's tree, batch) -> batch. Pure.
    """

    def logps(params: Params, batch: PolicyBatch) -> Array:
        return model.token_logps(
            params, batch.tokens, batch.mask, scored=batch.scored, temperature=config.temperature
        )[0]

    def values(params: Params, batch: PolicyBatch) -> Array:
        return token_values(model, params, batch)

    score = make_score(logps, num_microbatches=num_microbatches)
    judge = make_score(values, num_microbatches=num_microbatches)
    needs = set(algorithm.needs) | (
        {"old_logps"} if config.num_epochs * config.num_minibatches > 1 else set()
    )

    def fill(params: Params, reference: Params, batch: PolicyBatch) -> PolicyBatch:
        filled = {}
        if "old_logps" in needs:
            filled["old_logps"] = score(policy_of(config, params), batch)
        if "ref_logps" in needs:
            filled["ref_logps"] = score(reference, batch)
        if "values" in needs:
            assert isinstance(config, PPOConfig)
            filled["values"] = judge(split_params(config, params)[1], batch)
        return batch._replace(**filled)

    return fill


def policy_of(config: OnlineConfig, params: Params) -> Params:
    """The policy's tree among the parameters of an algorithm.

    Args:
      config: of the algorithm.
      params: what is trained.
    """
    return split_params(config, params)[0] if isinstance(config, PPOConfig) else params


def _scan(
    step: Callable[[TrainState], tuple[TrainState, Metrics]],
    judge: Callable[[TrainState, Key], Metrics],
    state: TrainState,
    eval_key: Key,
    size: FusedConfig,
) -> tuple[TrainState, History]:
    """All steps, with an evaluation before every `eval_every` of them and at the end."""

    def steps(state: TrainState, count: int) -> tuple[TrainState, Metrics]:
        return lax.scan(lambda state, _: step(state), state, None, length=count)

    if not size.eval_every:
        state, metrics = steps(state, size.num_steps)
        return state, History(metrics, {})

    count = size.num_steps // size.eval_every

    def stretch(state: TrainState, index: Array) -> tuple[TrainState, tuple[Metrics, Metrics]]:
        evaluated = judge(state, jax.random.fold_in(eval_key, index))
        like = jax.eval_shape(lambda state: steps(state, size.eval_every)[1], state)
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        train = functools.partial(steps, count=size.eval_every)
        state, metrics = lax.cond(index < count, train, lambda state: (state, blank), state)
        return state, (metrics, evaluated)

    # one program for all evaluations
    state, (metrics, evaluations) = lax.scan(stretch, state, jnp.arange(count + 1))
    return state, History(jax.tree.map(lambda x: x[:count].reshape(-1), metrics), evaluations)


def _where(condition: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), new, old)


def _check_evaluation(evaluate: Evaluate | None, size: FusedConfig) -> None:
    if (evaluate is None) == bool(size.eval_every):
        given = "no evaluate function" if evaluate is None else "an evaluate function"
        raise ValueError(f"eval_every={size.eval_every} and {given}: give both, or neither")
