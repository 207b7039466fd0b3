"""Whole runs in one program, for tiny models: `lax.scan` over the steps inside one jit, several
seeds or settings under vmap.

    generate -> reward -> score -> step     PPO, GRPO, DAPO, with a jittable reward of tokens
    draw rows -> score -> step              SFT, DPO, reward models, when the data is arrays

`score` and `step` are those of the ordinary loops (`rlhf_jax.training`); only the host is missing.
Nothing here is jitted: wrap what `make_fused_loop` returns, for example
``jax.jit(jax.vmap(run, (None, None, None, 0)))`` for several seeds. On a CPU ``lax.map`` in place
of vmap gives the same and is about as fast.
A vmapped run equals a single one to rounding, not bit by bit, and sampling lets rounding grow with
the steps.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array

from rlhf_jax.checked import checked
from rlhf_jax.fields import documented
from rlhf_jax.fused.rollouts import GenerationShape, PromptSet, RewardFn, make_collect
from rlhf_jax.training import TrainState, make_score, make_step, make_train_state
from rlhf_jax.types import EMPTY, Algorithm, Key, Metrics, Model, Params, Trees

Evaluate: TypeAlias = Callable[[Params, Any, Key], Metrics]
"""(the policy's parameters, held-out data, key) -> metrics."""


class Run(Protocol):
    """What `make_fused_loop` and `make_fused_fit` return."""

    def __call__(
        self, trees: Trees, data: Any, held_out: Any, key: Key, frozen: Trees = EMPTY
    ) -> tuple[TrainState, "History"]:
        """Trains.

        Args:
          trees: what is trained, by role: {"policy": params}, of PPO also "critic".
          data: training data.
          held_out: held-out data, or None.
          key: of the run.
          frozen: trees that are read and not trained. "ref" is the policy that the run starts from
            where it is not given.

        Returns:
          (final state, history).
        """
        ...


@documented
class History(NamedTuple):
    """Metrics of a run. Under vmap every array leads with the mapped axes."""

    steps: Metrics
    """[num_steps] each."""
    evaluations: Metrics
    """[num_steps / eval_every + 1] each: before the first step, and after every `eval_every` steps;
    empty without evaluation."""


@checked
@dataclass(frozen=True, kw_only=True)
class FusedConfig:
    """Size of a fused run."""

    num_steps: int
    """Batches: of completions online, of rows offline."""
    batch_size: int
    """Prompts, rows or pairs per step."""
    num_microbatches: int = 1
    """Parts that a batch is computed in; the gradient is the same."""
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
    algorithm: Algorithm,
    model: Model,
    tx: optax.GradientTransformation,
    *,
    size: FusedConfig,
    shape: GenerationShape,
    reward: RewardFn,
    evaluate: Evaluate | None = None,
) -> Run:
    """Builds a whole run of an algorithm that samples: PPO, GRPO, DAPO.

    The reference of the KL, where the algorithm has one, is the policy that the run starts from.
    See `make_collect` for what dynamic sampling does here.

    Args:
      algorithm: made by ``ALGORITHMS[name](config, model)``; floats of the configuration may be
        traced (`with_traced`).
      model: of the policy; it samples.
      tx: optimizer of the trained trees by role, such as `make_optimizers`.
      size: steps, prompts per step, microbatches, evaluations.
      shape: what generation is compiled for.
      reward: of completions.
      evaluate: usually `make_evaluate(...)`; must be given if and only if `size.eval_every` is not
        0.

    Returns:
      A `Run` on a `PromptSet`. Pure.

    Raises:
      ValueError: `evaluate` and `eval_every` do not go together; an option that the fused loop has
        not; an algorithm that samples nothing.
    """
    sampling = algorithm.sampling
    if sampling is None:
        raise ValueError("the algorithm samples nothing (sampling is None): use make_fused_fit")
    collect = make_collect(sampling, model, batch_size=size.batch_size, shape=shape, reward=reward)
    score = make_score(algorithm.needs, num_microbatches=size.num_microbatches)
    update = make_step(algorithm, tx, num_microbatches=size.num_microbatches)

    def run(
        trees: Trees, data: PromptSet, held_out: Any, key: Key, frozen: Trees = EMPTY
    ) -> tuple[TrainState, History]:
        # Inside one program a tree that nothing reads costs nothing.
        others = {"ref": trees["policy"], **frozen}

        def step(state: TrainState) -> tuple[TrainState, Metrics]:
            key, sample_key, update_key = jax.random.split(state.key, 3)
            batch, metrics = collect(state.params["policy"], data, sample_key)
            fields: dict[str, Any] = score(state.params, others, batch)
            batch = batch._replace(**fields)
            new, updated = update(state._replace(key=key), others, batch, update_key)
            if sampling.keep is not None:
                # No group was worth training on: momentum must not move anything either.
                found = metrics["data/groups_kept"] > 0
                params, opt_state = _where(
                    found, (new.params, new.opt_state), (state.params, state.opt_state)
                )
                new = new._replace(params=params, opt_state=opt_state)
            return new, metrics | updated

        return _whole(
            step, evaluate, key, size=size, trees=trees, held_out=held_out, tx=tx, aux=algorithm.aux
        )

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

    Every step draws `size.batch_size` different rows. What the algorithm caches
    (`Algorithm.cached`) is scored for all of them before the first step, with the reference that
    the run starts from, unless the data has it already.

    Args:
      algorithm: of SFT, a reward model or DPO.
      tx: optimizer of the trained trees by role, such as `make_optimizers`.
      size: steps, rows per step, microbatches, evaluations.
      evaluate: must be given if and only if `size.eval_every` is not 0.

    Returns:
      A `Run` on a batch of all rows. Pure.

    Raises:
      ValueError: `evaluate` and `eval_every` do not go together.
    """
    update = make_step(algorithm, tx, num_microbatches=size.num_microbatches)

    def run(
        trees: Trees, data: Any, held_out: Any, key: Key, frozen: Trees = EMPTY
    ) -> tuple[TrainState, History]:
        others = {"ref": trees["policy"], **frozen}
        missing = {
            name: score for name, score in algorithm.cached.items() if data._asdict()[name] is None
        }
        data = data._replace(**make_score(missing)({}, others, data))

        def step(state: TrainState) -> tuple[TrainState, Metrics]:
            key, draw_key, update_key = jax.random.split(state.key, 3)
            count = data.tokens.shape[0]
            rows = jax.random.choice(draw_key, count, (size.batch_size,), replace=False)
            batch = jax.tree.map(lambda x: jnp.asarray(x)[rows], data)
            return update(state._replace(key=key), others, batch, update_key)

        return _whole(
            step, evaluate, key, size=size, trees=trees, held_out=held_out, tx=tx, aux=algorithm.aux
        )

    _check_evaluation(evaluate, size)
    return run


def _whole(
    step: Callable[[TrainState], tuple[TrainState, Metrics]],
    evaluate: Evaluate | None,
    key: Key,
    *,
    size: FusedConfig,
    trees: Trees,
    held_out: Any,
    tx: optax.GradientTransformation,
    aux: Params,
) -> tuple[TrainState, History]:
    """All steps from the start, with evaluations of the policy."""

    def judge(state: TrainState, key: Key) -> Metrics:
        assert evaluate is not None
        return evaluate(state.params["policy"], held_out, key)

    state_key, eval_key = jax.random.split(key)
    state = make_train_state(dict(trees), tx, state_key, aux=dict(aux))
    return _scan(step, judge, state, eval_key, size)


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
