"""The train state: arrays only."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from rlhf_jax.fields import documented
from rlhf_jax.sharding import infer_shardings
from rlhf_jax.types import Key, Params, Trees


@documented
class TrainState(NamedTuple):
    """Everything that training changes, in one pytree: donated to the step, saved as one
    checkpoint.

    Optimizer, configuration and model live in closures made by `make_*`.
    """

    step: Int[Array, ""]
    """Updates made, skipped ones included; offline, with one update a batch, also the position in
    the data."""
    params: Trees
    """What is trained, by role."""
    opt_state: optax.OptState
    """Of the optimizer: moments and counts."""
    key: Key
    """Split once per step."""
    aux: Params
    """The algorithm's own state (`Algorithm.aux`), such as the adaptive KL coefficient."""
    skipped: Int[Array, " 2"]
    """Updates skipped because the loss or a gradient was not finite: in a row until now, and in
    all."""


def make_train_state(
    params: Trees, tx: optax.GradientTransformation, key: Key, *, aux: Params | None = None
) -> TrainState:
    """The state before the first step.

    Args:
      params: trained trees by role, already where they belong (any pytree will do by hand).
      tx: the optimizer; its state is created here.
      key: a typed PRNG key; the state owns it from now on.
      aux: initial value of the algorithm's own state.

    Returns:
      A `TrainState` at step 0.
    """
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        zero, params, tx.init(params), key, dict(aux or {}), jnp.zeros((2,), jnp.int32)
    )


def make_sharded_state(
    params: Trees,
    tx: optax.GradientTransformation,
    key: Key,
    *,
    mesh: Mesh,
    aux: Params | None = None,
    replicate: tuple[str, ...] = (),
) -> tuple[TrainState, Any]:
    """`make_train_state` with every leaf created in its shards.

    Args:
      params: trained trees by role, already sharded over `mesh`.
      tx: the optimizer.
      key: a typed PRNG key.
      mesh: the device mesh.
      aux: initial value of the algorithm's own state.
      replicate: names to keep whole (`MeshConfig.replicate`).

    Returns:
      (state, shardings): the state and the tree of `NamedSharding` it lies in.

    Raises:
      ValueError: a leaf that the sharding rules cannot place.
    """

    def build(params: Trees, key: Key) -> TrainState:
        return make_train_state(params, tx, key, aux=aux)

    shardings = infer_shardings(
        jax.eval_shape(build, params, key), mesh, replicate=replicate, roles=params.keys()
    )
    return jax.jit(build, out_shardings=shardings, donate_argnums=0)(params, key), shardings


def abstract_sharded_state(
    params: Trees,
    tx: optax.GradientTransformation,
    key: Key,
    *,
    mesh: Mesh,
    aux: Params | None = None,
    replicate: tuple[str, ...] = (),
) -> tuple[TrainState, Any]:
    """`make_sharded_state` as shapes, dtypes and shardings alone: what a checkpoint is restored
    onto.

    Args:
      params, tx, key, mesh, aux, replicate: as for `make_sharded_state`; nothing is consumed.

    Returns:
      (state of `jax.ShapeDtypeStruct`, shardings).

    Raises:
      ValueError: a leaf that the sharding rules cannot place.
    """
    shapes = jax.eval_shape(
        lambda params, key: make_train_state(params, tx, key, aux=aux), params, key
    )
    shardings = infer_shardings(shapes, mesh, replicate=replicate, roles=params.keys())
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    ), shardings
