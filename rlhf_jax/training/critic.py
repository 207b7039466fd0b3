"""The optimizer of a policy with a critic of its own."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from rlhf_jax.training.optim import OptimizerConfig, make_optimizer
from rlhf_jax.types import Params


class PolicyCriticState(NamedTuple):
    """Moments of both models and the number of updates made."""

    updates: Int[Array, ""]
    policy: optax.OptState
    critic: optax.OptState


def make_policy_critic_optimizer(
    config: OptimizerConfig,
    *,
    critic_learning_rate: float | None = None,
    critic_warmup: int = 0,
    total_steps: int | None = None,
) -> optax.GradientTransformation:
    """Two optimizers side by side: one for `params["policy"]`, one for `params["critic"]`.

    Each clips its own gradient and has its own learning rate. In the first `critic_warmup` updates
    the policy and its moments stay as they are; its schedule begins after them.

    Args:
      config: the rule of both.
      critic_learning_rate: peak learning rate of the critic; None: that of `config`.
      critic_warmup: updates that move the critic alone.
      total_steps: updates in the whole run (see `make_schedule`).

    Returns:
      An optax gradient transformation over {"policy", "critic"}; its `update` needs the parameters.

    Raises:
      ValueError: the warm-up is as long as the run; or as `make_optimizer`.
    """
    if total_steps is not None and critic_warmup >= total_steps:
        raise ValueError(
            f"critic_warmup={critic_warmup} leaves no update to the policy: the run has "
            f"{total_steps}"
        )
    own = (
        config
        if critic_learning_rate is None
        else dataclasses.replace(config, learning_rate=critic_learning_rate)
    )
    policy = make_optimizer(
        config, total_steps=None if total_steps is None else total_steps - critic_warmup
    )
    critic = make_optimizer(own, total_steps=total_steps)

    def init(params: Params) -> PolicyCriticState:
        return PolicyCriticState(
            jnp.zeros((), jnp.int32), policy.init(params["policy"]), critic.init(params["critic"])
        )

    def update(
        updates: Params, state: Any, params: Params | None = None
    ) -> tuple[Params, PolicyCriticState]:
        assert params is not None
        moved, policy_state = policy.update(updates["policy"], state.policy, params["policy"])
        valued, critic_state = critic.update(updates["critic"], state.critic, params["critic"])
        active = state.updates >= critic_warmup
        moved = jax.tree.map(lambda u: jnp.where(active, u, jnp.zeros_like(u)), moved)
        policy_state = jax.tree.map(
            lambda new, old: jnp.where(active, new, old), policy_state, state.policy
        )
        return {"policy": moved, "critic": valued}, PolicyCriticState(
            state.updates + 1, policy_state, critic_state
        )

    return optax.GradientTransformation(init, update)
