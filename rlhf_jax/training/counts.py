"""How many updates a schedule has counted: what decides about the learning rate, kept in the
optimizer's state alone."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int

from rlhf_jax.types import EMPTY, Trained

Held = optax.transforms.ConditionallyMaskState


def schedule_count(opt_state: optax.OptState, role: str = "policy") -> Int[Array, ""]:
    """Updates that the learning rate's schedule of a tree has counted.

    The next update is made with the rate of this count, the last one was made with that of the
    count before.

    Args:
      opt_state: of `make_optimizer` or `make_optimizers`.
      role: whose, where there is an optimizer per tree.

    Raises:
      ValueError: an optimizer without a schedule.
    """
    own = of_role(opt_state, role)
    counts = [
        node.count for node in jax.tree.leaves(own, is_leaf=_is_schedule) if _is_schedule(node)
    ]
    if len(counts) != 1:
        raise ValueError(
            f"the optimizer has {len(counts)} schedules; one decides about the learning rate"
        )
    return counts[0]


def is_held(opt_state: optax.OptState, hold: int, role: str = "policy") -> Bool[Array, ""]:
    """Whether the next update leaves a tree as it is (`Trained.hold`)."""
    if not hold:
        return jnp.zeros((), bool)
    own = of_role(opt_state, role)
    held = [node for node in jax.tree.leaves(own, is_leaf=_is_held) if _is_held(node)]
    return held[0].step < hold


def with_updates(
    opt_state: optax.OptState, updates: int, trained: Mapping[str, Trained] = EMPTY
) -> optax.OptState:
    """A new optimizer's state whose schedules go on after some updates; moments and their counts
    stay new.

    Args:
      opt_state: just initialised, of `make_optimizer` or `make_optimizers`.
      updates: made so far.
      trained: role -> how it is trained, where there is an optimizer per tree.
    """

    def moved(tree: Any, hold: int) -> Any:
        def node_moved(node: Any) -> Any:
            if _is_schedule(node):
                return node._replace(count=jnp.full_like(node.count, max(updates - hold, 0)))
            if _is_held(node):
                inner = moved(node.inner_state, hold)
                return node._replace(step=jnp.full_like(node.step, updates), inner_state=inner)
            return node

        return jax.tree.map(node_moved, tree, is_leaf=lambda x: _is_schedule(x) or _is_held(x))

    if not isinstance(opt_state, optax.transforms.PartitionState):
        return moved(opt_state, 0)
    return opt_state._replace(
        inner_states={
            role: moved(own, trained[role].hold) for role, own in opt_state.inner_states.items()
        }
    )


def of_role(opt_state: optax.OptState, role: str) -> optax.OptState:
    """The part of one tree, where there is an optimizer per tree."""
    if isinstance(opt_state, optax.transforms.PartitionState):
        return opt_state.inner_states[role]
    return opt_state


def _is_schedule(node: Any) -> bool:
    return isinstance(node, optax.ScaleByScheduleState)


def _is_held(node: Any) -> bool:
    return isinstance(node, Held)
