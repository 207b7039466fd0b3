"""The two programs of every loop: `step`, which trains on a batch, and `score`, which fills it.

Offline and online, fused and on the host run these, so that none of them can forget a part.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from rlhf_jax.training.epochs import make_epochs
from rlhf_jax.training.packing import score_parts
from rlhf_jax.training.state import TrainState
from rlhf_jax.training.update import (
    UpdateStep,
    check_rows,
    make_update_step,
    split_microbatches,
)
from rlhf_jax.types import Algorithm, Key, Metrics, OneOf, Params, Sampling, Score, Trees

Assemble: TypeAlias = Callable[[Trees, Trees], Trees]
"""(trained, frozen) -> what loss and scores see. With adapters "policy" is base and adapter
together, and "ref" the base alone."""


class Roles(dict[str, Params]):
    """Trees by role; one that is not there is a one-line error."""

    def __missing__(self, role: str) -> Params:
        raise ValueError(
            f"this run has no tree {role!r}, only {', '.join(self)}: the configuration's `models` "
            "names what is trained and when a reference is read"
        )


def union(trained: Trees, frozen: Trees) -> Trees:
    """The trees of full fine-tuning: what is trained beside what is not."""
    return Roles({**frozen, **trained})


def make_step(
    algorithm: Algorithm,
    tx: optax.GradientTransformation,
    *,
    assemble: Assemble = union,
    num_microbatches: int = 1,
    mesh: Mesh | None = None,
    learning_rate: Callable[[optax.OptState], Array] | None = None,
) -> UpdateStep:
    """Builds a step of training: prepare, then epochs x minibatches x microbatches.

    On data that is there the step also fills what `Algorithm.needs` names, where the batch lacks
    it; completions are scored before, in a program of its own.

    Args:
      algorithm: what to do.
      tx: optimizer of the trained trees by role (`make_optimizers`).
      assemble: trees of loss and scores from what is trained and what is frozen. Gradients flow
        into whatever of the trained trees it hands on.
      num_microbatches: parts of an optimizer step (see `make_update_step`).
      mesh: keeps the rows of a minibatch divided over it, and refuses rows that do not divide.
      learning_rate: see `make_update_step`.

    Returns:
      (state, frozen, batch, key) -> (state, metrics). Pure: jit it with the state donated.

    Raises:
      ValueError: when traced, the rows do not divide over minibatches, microbatches and mesh.
    """
    # Offline there is one update a batch, and `make_epochs` of one is that update.
    sampling = algorithm.sampling or Sampling()

    def loss(trained: Trees, frozen: Trees, batch: Any, key: Key) -> tuple[Array, Metrics]:
        return algorithm.loss(assemble(trained, frozen), batch, key)

    update = make_update_step(
        loss,
        tx,
        weigh=algorithm.weigh,
        num_microbatches=num_microbatches,
        mesh=mesh,
        learning_rate=learning_rate,
    )
    epochs = make_epochs(
        update,
        num_epochs=sampling.num_epochs,
        num_minibatches=sampling.num_minibatches,
        mesh=mesh,
    )

    filled = make_filled(algorithm, assemble=assemble, num_microbatches=num_microbatches, mesh=mesh)

    def step(state: TrainState, frozen: Trees, batch: Any, key: Key) -> tuple[TrainState, Metrics]:
        if algorithm.sampling is None:
            batch = filled(batch, state.params, frozen)
        # Credit is given once, over the whole batch: minibatches must not see means of their own.
        batch, aux, prepared = algorithm.prepare(batch, state.aux)
        state, metrics = epochs(state._replace(aux=aux), frozen, batch, key)
        return state, prepared | metrics

    return step


def make_filled(
    algorithm: Algorithm,
    *,
    assemble: Assemble = union,
    num_microbatches: int = 1,
    mesh: Mesh | None = None,
) -> Callable[[Any, Trees, Trees], Any]:
    """Builds what completes a batch.

    Args:
      algorithm: whose `needs`.
      assemble: as for `make_step`.
      num_microbatches: as for `make_score`.
      mesh: as for `make_score`.

    Returns:
      (batch, trained, frozen) -> the batch with the fields of `Algorithm.needs` that are None
      filled.
    """

    def filled(batch: Any, trained: Trees, frozen: Trees) -> Any:
        lacking = {
            field: score
            for field, score in algorithm.needs.items()
            if getattr(batch, field, None) is None
        }
        if not lacking:
            return batch
        score = make_score(lacking, assemble=assemble, num_microbatches=num_microbatches, mesh=mesh)
        return batch._replace(**score(trained, frozen, batch))

    return filled


def make_score(
    scores: Mapping[str, Score],
    *,
    assemble: Assemble = union,
    num_microbatches: int = 1,
    mesh: Mesh | None = None,
) -> Callable[[Trees, Trees, Any], dict[str, Array]]:
    """Builds a forward pass over a batch, in microbatches of the trainer's shape.

    Args:
      scores: field -> how it is computed: `Algorithm.needs` or `Algorithm.cached`.
      assemble: as for `make_step`.
      num_microbatches: parts of the batch, whose size must be a multiple of it.
      mesh: that the rows of a part are divided over; None: rows are not looked at.

    Returns:
      (trained, frozen, batch) -> {field: array in the batch's order}, without gradient. Pure.

    Raises:
      ValueError: when traced, the batch does not divide into microbatches, or these over the mesh.
    """

    def fill(trained: Trees, frozen: Trees, batch: Any) -> dict[str, Array]:
        trees = assemble(trained, frozen)

        def part(rows: Any) -> dict[str, Array]:
            return _in_few_passes(scores, trees, rows)

        if getattr(batch, "room", None) is not None:
            return jax.lax.stop_gradient(score_parts(part, batch))
        if mesh is not None:
            rows = jax.tree.leaves(batch)[0].shape[0]
            check_rows(rows, num_microbatches=num_microbatches, mesh=mesh)
        if num_microbatches == 1:
            return jax.lax.stop_gradient(part(batch))
        # Microbatches take rows with a stride; what comes back is put in the old order.
        parts = jax.lax.map(part, split_microbatches(batch, num_microbatches))
        return jax.tree.map(
            lambda x: jax.lax.stop_gradient(x.swapaxes(0, 1).reshape(-1, *x.shape[2:])), parts
        )

    return fill


def _in_few_passes(scores: Mapping[str, Score], trees: Trees, rows: Any) -> dict[str, Array]:
    """Every score; those that share a pass by one call."""
    passes: dict[Any, Mapping[str, Array]] = {}
    found = {}
    for field, score in scores.items():
        if not isinstance(score, OneOf):
            found[field] = score(trees, rows)
            continue
        if score.several not in passes:
            passes[score.several] = score.several(trees, rows)
        found[field] = passes[score.several][score.field]
    return found
