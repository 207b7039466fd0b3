"""Several optimizer steps on one batch of completions, as one pure function: epochs x minibatches x
microbatches."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from rlhf_jax.sharding import constrain
from rlhf_jax.training.state import TrainState
from rlhf_jax.training.update import UpdateStep, reduce_metrics
from rlhf_jax.types import Key, Metrics, Trees

_LAST = ("update/skipped_in_a_row", "update/skipped_total", "lr")
_SUMS = ("update/skipped",)


def make_epochs(
    update_step: UpdateStep,
    *,
    num_epochs: int = 1,
    num_minibatches: int = 1,
    mesh: Mesh | None = None,
) -> UpdateStep:
    """Builds `num_epochs` passes over a batch, each in `num_minibatches` optimizer steps.

    Rows are dealt to minibatches anew in every pass (groups need not stay together: advantages are
    already on the rows). Only the first step still is on the policy that sampled: later ones read
    `old_logps` (`PolicyBatch.on_policy`).

    Args:
      update_step: one optimizer step, from `make_update_step`.
      num_epochs: passes over the batch.
      num_minibatches: optimizer steps per pass; the batch size must be a multiple of it.
      mesh: keeps the rows of a minibatch divided over it.

    Returns:
      (state, frozen, batch, key) -> (state, metrics). Pure. Metrics are means over the optimizer
      steps; `_max` and `_min` keys the extremes; `update/skipped` a sum; `sampler/logp_diff` the
      mean over tokens of the sampling policy.

    Raises:
      ValueError: fewer than one epoch or minibatch; when traced, the batch does not divide into
        minibatches.
    """
    for name, value in (("num_epochs", num_epochs), ("num_minibatches", num_minibatches)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    num_updates = num_epochs * num_minibatches

    def epochs(
        state: TrainState, frozen: Trees, batch: Any, key: Key
    ) -> tuple[TrainState, Metrics]:
        rows = batch.tokens.shape[0]
        if rows % num_minibatches:
            raise ValueError(
                f"{rows} completions do not divide into num_minibatches={num_minibatches}"
            )
        if num_updates == 1:
            state, metrics = update_step(state, frozen, batch, key)
            return state, _over_updates(jax.tree.map(lambda x: x[None], metrics))

        def body(state: TrainState, part: tuple[Array, Array]) -> tuple[TrainState, Metrics]:
            taken, index = part
            minibatch = jax.tree.map(
                lambda x: constrain(x[taken], mesh, ("batch",) + (None,) * (x.ndim - 1)), batch
            )
            if batch.on_policy is not None:
                minibatch = minibatch._replace(on_policy=minibatch.on_policy & (index == 0))
            return update_step(state, frozen, minibatch, jax.random.fold_in(key, index))

        order = _deal(jax.random.fold_in(key, num_updates), rows, num_epochs, num_minibatches)
        state, stacked = jax.lax.scan(body, state, (order, jnp.arange(num_updates)))
        return state, _over_updates(stacked)

    return epochs


def _deal(key: Key, rows: int, num_epochs: int, num_minibatches: int) -> Array:
    """Row numbers of every optimizer step: [num_epochs * num_minibatches, rows / num_minibatches],
    a permutation per pass."""
    if num_minibatches == 1:  # one step sees all rows: their order is of no consequence
        return jnp.broadcast_to(jnp.arange(rows)[None, :], (num_epochs, rows))
    keys = jax.random.split(key, num_epochs)
    return jax.vmap(lambda k: jax.random.permutation(k, rows))(keys).reshape(
        num_epochs * num_minibatches, -1
    )


def _over_updates(stacked: Metrics) -> Metrics:
    """[updates] of each metric -> one value."""
    count = next(iter(stacked.values())).shape[0]
    reduced = reduce_metrics(stacked)
    metrics = {}
    for name, value in reduced.items():
        if name in _LAST:
            metrics[name] = stacked[name][-1]
        elif name in _SUMS or name.endswith(("_max", "_min")):
            metrics[name] = value
        else:
            metrics[name] = value / count
    # weighted sums over the rows that were on the policy, and their weight
    if "sampler/on_policy" in metrics:
        share = metrics["sampler/on_policy"]
        metrics["sampler/logp_diff"] = metrics["sampler/logp_diff"] / jnp.where(
            share > 0, share, 1.0
        )
    return metrics
