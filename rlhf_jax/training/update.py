"""One optimizer step as a pure function."""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from rlhf_jax.sharding import row_shards
from rlhf_jax.training.packing import Layout, fold_parts, padding_of
from rlhf_jax.training.state import TrainState
from rlhf_jax.types import Key, Metrics, Params, Trees

T = TypeVar("T")
UpdateStep: TypeAlias = Callable[[TrainState, Trees, Any, Key], tuple[TrainState, Metrics]]
"""(state, frozen, batch, key) -> (state, metrics)."""

UpdateLoss: TypeAlias = Callable[[Any, Any, Any, Key], tuple[Array, Metrics]]
"""(params, frozen, batch, key) -> (loss, metrics); differentiable in `params` only."""


def make_update_step(
    loss_fn: UpdateLoss,
    tx: optax.GradientTransformation,
    *,
    weigh: Callable[[Any], Any],
    num_microbatches: int = 1,
    mesh: Mesh | None = None,
    learning_rate: Callable[[optax.OptState], Array] | None = None,
) -> UpdateStep:
    """Builds one optimizer step: weights over the global batch, gradients summed over microbatches,
    one update.

    Because a loss is a weighted sum whose weights are computed once over the whole batch (`weigh`),
    the gradient of the batch is the plain sum of its microbatches' gradients: accumulation is exact
    to rounding, however ragged the rows.

    A step whose loss or gradient is not finite leaves parameters and optimizer state as they were
    and is counted in `TrainState.skipped`; it still advances `TrainState.step`, which is the
    position in the data.

    Args:
      loss_fn: (params, frozen, batch, key) -> (loss, metrics); differentiated in `params`.
      tx: an optax optimizer.
      weigh: fills `batch.weights`; called once, on the global batch.
      num_microbatches: parts that the batch is split into (with a stride, so that a sharded batch
        axis stays where it is); the batch size must be a multiple of it. Not read where the batch
        has `room`: its parts are then as many as its tokens fill.
      mesh: that the rows are divided over; refuses parts that do not divide over it, which
        compilers answer with an internal error. None: rows are not looked at.
      learning_rate: of the update to be made, from the optimizer's state (`optim.make_rate`), for
        the metric `lr`; None: there is no such metric.

    Returns:
      (state, frozen, batch, key) -> (state, metrics). Pure: jit it with the state donated. Metrics
      are those of the loss, and `loss/total`, `grad_norm` (before clipping), `update/skipped` (0 or
      1), `update/skipped_in_a_row`, `update/skipped_total`, `data/padding` (share of the places
      that hold no token), and `lr` with `learning_rate`.

    Raises:
      ValueError: (when traced) the batch does not divide into the microbatches, or these over the
        mesh.
    """
    if num_microbatches < 1:
        raise ValueError(f"num_microbatches={num_microbatches} must be at least 1")
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)

    def update_step(
        state: TrainState, frozen: Params, batch: Any, key: Key
    ) -> tuple[TrainState, Metrics]:
        packed = getattr(batch, "room", None) is not None
        if mesh is not None and not packed:
            rows = jax.tree.leaves(batch)[0].shape[0]
            check_rows(rows, num_microbatches=num_microbatches, mesh=mesh)
        batch = weigh(batch)
        if packed:

            def of_part(part: Any, own: Key) -> tuple[Array, Metrics, Params]:
                (loss, metrics), grads = value_and_grad(state.params, frozen, part, own)
                return loss, metrics, grads

            (loss, metrics, grads), layout = over_parts(of_part, batch, key)
            metrics |= {"data/padding": padding_of(layout, batch.room)}
        elif num_microbatches == 1:
            (loss, metrics), grads = value_and_grad(state.params, frozen, batch, key)
        else:
            loss, metrics, grads = _accumulate(
                value_and_grad, state.params, frozen, batch, key, num_microbatches
            )
        grad_norm = optax.tree.norm(jax.tree.map(lambda g: g.astype(jnp.float32), grads))
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        def move(now: tuple[Any, Any, Any]) -> tuple[Any, Any]:
            params, opt_state, grads = now
            updates, moved = tx.update(grads, opt_state, params)
            # Gradients summed over parts are float32, and a state keeps the dtypes it began with.
            moved = jax.tree.map(lambda new, old: new.astype(old.dtype), moved, opt_state)
            return optax.apply_updates(params, updates), moved

        # A branch, not a choice between new and old for every number: the old ones need not outlive
        # the update, so the compiler writes parameters and moments in place.
        params, opt_state = jax.lax.cond(
            finite, move, lambda now: now[:2], (state.params, state.opt_state, grads)
        )
        failed = (~finite).astype(jnp.int32)
        skipped = jnp.stack([(state.skipped[0] + 1) * failed, state.skipped[1] + failed])
        mask = getattr(batch, "mask", None)
        if mask is not None and "data/padding" not in metrics:
            metrics = metrics | {"data/padding": 1 - jnp.mean(mask, dtype=jnp.float32)}
        rate = {} if learning_rate is None else {"lr": learning_rate(state.opt_state)}
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            key=state.key,
            aux=state.aux,
            skipped=skipped,
        )
        return new_state, metrics | rate | {
            "loss/total": loss,
            "grad_norm": grad_norm,
            "update/skipped": failed,
            "update/skipped_in_a_row": skipped[0],
            "update/skipped_total": skipped[1],
        }

    return update_step


def split_microbatches(batch: Any, num_microbatches: int, *, mesh: Mesh | None = None) -> Any:
    """[B, ...] -> [n, B/n, ...] on every leaf, with a stride: microbatch i holds rows i, i+n, i+2n,
    ...

    A contiguous split would move a sharded batch axis onto the microbatch axis and leave devices
    idle.

    Args:
      batch: every leaf leads with the rows.
      num_microbatches: n.
      mesh: that the rows of each microbatch are divided over; None: they are not.

    Raises:
      ValueError: B is not a multiple of n, or B/n does not divide over the mesh.
    """

    def split(x: Array) -> Array:
        check_rows(x.shape[0], num_microbatches=num_microbatches, mesh=mesh)
        return x.reshape(x.shape[0] // num_microbatches, num_microbatches, *x.shape[1:]).swapaxes(
            0, 1
        )

    return jax.tree.map(split, batch)


def check_rows(
    rows: int, *, num_microbatches: int = 1, mesh: Mesh | None = None, name: str = "batch size"
) -> None:
    """Refuses a number of rows (of pairs: pairs) that microbatches and mesh do not divide.

    Args:
      rows: of an optimizer step.
      num_microbatches: that they are split into.
      mesh: that the rows of a microbatch are divided over; None: a single device.
      name: what the number is called in the error.

    Raises:
      ValueError: `rows` is not a multiple of both together.
    """
    shards = 1 if mesh is None else row_shards(mesh)
    parts = num_microbatches * shards
    if rows % parts:
        raise ValueError(
            f"{name}={rows} must be a multiple of {parts} (mesh data x fsdp = {shards}, "
            f"num_microbatches = {num_microbatches})"
        )


def reduce_metrics(stacked: Metrics) -> Metrics:
    """[n] of each metric -> its value over all parts: sum, or max/min for keys that end so
    (`types.Metrics`)."""
    return {name: _reducer(name)(values, axis=0) for name, values in stacked.items()}


def _reducer(name: str) -> Callable[..., Array]:
    if name.endswith("_max"):
        return jnp.max
    return jnp.min if name.endswith("_min") else jnp.sum


def _accumulate(
    value_and_grad: Callable[..., Any],
    params: Params,
    frozen: Params,
    batch: Any,
    key: Key,
    num_microbatches: int,
) -> tuple[Array, Metrics, Params]:
    """Loss, metrics and float32 gradients summed over microbatches."""

    def body(total: Params, part: tuple[Any, Array]) -> tuple[Params, tuple[Array, Metrics]]:
        microbatch, index = part
        (loss, metrics), grads = value_and_grad(
            params, frozen, microbatch, jax.random.fold_in(key, index)
        )
        total = jax.tree.map(lambda a, g: a + g.astype(a.dtype), total, grads)
        return total, (loss, metrics)

    zeros = jax.tree.map(_zeros, params)
    parts = (split_microbatches(batch, num_microbatches), jnp.arange(num_microbatches))
    grads, (losses, metrics) = jax.lax.scan(body, zeros, parts)
    return losses.sum(), reduce_metrics(metrics), grads


def over_parts(
    function: Callable[[Any, Key], tuple[Array, Metrics, T]], batch: Any, key: Key
) -> tuple[tuple[Array, Metrics, T], Layout]:
    """Loss and metrics of a packed batch, part after part.

    Args:
      function: (part, key) -> (loss, metrics, a tree to be summed, such as gradients).
      batch: weighed, with `room`.
      key: of the step.

    Returns:
      ((loss, metrics, tree), layout): sums, float32 at least; metrics by `types.Metrics`.
    """

    def of_part(part: Any, index: Array | int) -> tuple[Array, Metrics, T]:
        return function(part, key if batch.room.single else jax.random.fold_in(key, index))

    def merge(so_far: Any, found: Any, here: Array) -> Any:
        total = jax.tree.map(lambda a, g: a + g.astype(a.dtype), so_far[2], found[2])
        metrics = {
            name: _reducer(name)(jnp.stack([so_far[1][name], value]), axis=0)
            for name, value in found[1].items()
        }
        return so_far[0] + found[0], metrics, total

    def start(shapes: Any) -> Any:
        loss, metrics, total = shapes
        neutral = {name: jnp.full(x.shape, _neutral(name), x.dtype) for name, x in metrics.items()}
        return _zeros(loss), neutral, jax.tree.map(_zeros, total)

    return fold_parts(of_part, batch, merge=merge, start=start)


def _zeros(like: Any) -> Array:
    """Where a sum over microbatches begins: float32 at least."""
    return jnp.zeros(like.shape, jnp.promote_types(like.dtype, jnp.float32))


def _neutral(name: str) -> float:
    """What a metric's reduction begins with."""
    if name.endswith("_max"):
        return -jnp.inf
    return jnp.inf if name.endswith("_min") else 0.0
