"""How many updates a schedule has counted: what decides about the learning rate, kept in the
optimizer's state alone."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from rlhf_jax.training.critic import PolicyCriticState


def schedule_count(opt_state: optax.OptState) -> Int[Array, ""]:
    """Updates that the learning rate's schedule has counted, of the policy where a critic has an
    optimizer of its own.

    The next update is made with the rate of this count, the last one was made with that of the
    count before.

    Args:
      opt_state: of `make_optimizer` or `make_policy_critic_optimizer`.

    Raises:
      ValueError: an optimizer without a schedule.
    """
    if isinstance(opt_state, PolicyCriticState):
        return schedule_count(opt_state.policy)
    counts = [
        node.count
        for node in jax.tree.leaves(opt_state, is_leaf=_is_schedule)
        if _is_schedule(node)
    ]
    if len(counts) != 1:
        raise ValueError(
            f"the optimizer has {len(counts)} schedules; one decides about the learning rate"
        )
    return counts[0]


def with_updates(opt_state: optax.OptState, updates: int, *, resting: int = 0) -> optax.OptState:
    """A new optimizer's state whose schedule goes on after some updates; moments and their counts
    stay new.

    Args:
      opt_state: just initialised.
      updates: made so far.
      resting: how many in the beginning leave the policy alone, where a critic has an optimizer of
        its own.
    """
    if isinstance(opt_state, PolicyCriticState):
        return PolicyCriticState(
            jnp.full_like(opt_state.updates, updates),
            with_updates(opt_state.policy, max(updates - resting, 0)),
            with_updates(opt_state.critic, updates),
        )

    def moved(node: Any) -> Any:
        return (
            node._replace(count=jnp.full_like(node.count, updates)) if _is_schedule(node) else node
        )

    return jax.tree.map(moved, opt_state, is_leaf=_is_schedule)


def _is_schedule(node: Any) -> bool:
    return isinstance(node, optax.ScaleByScheduleState)
