"""The compiled pieces of an online step: scoring a batch of completions, and updating on it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.algorithms.ppo import token_values
from rlhf_jax.loops.online_setup import OnlineSetup
from rlhf_jax.sharding import batch_sharding, replicated
from rlhf_jax.training import TrainState, make_epochs, make_score, make_update_step
from rlhf_jax.types import Metrics, Params, PolicyBatch

Score = Callable[[Params, Params, PolicyBatch], PolicyBatch]
Update = Callable[[TrainState, Params, PolicyBatch], tuple[TrainState, Metrics]]


def scored_fields(setup: OnlineSetup) -> frozenset[str]:
    """What has to be scored before an update: what `prepare` reads, and with several updates also
    `old_logps`."""
    return setup.algorithm.needs | (
        frozenset({"old_logps"}) if setup.updates_per_step > 1 else frozenset()
    )


def make_score_step(setup: OnlineSetup) -> Score:
    """Fills old_logps, ref_logps and values, as far as they are needed: (params, frozen, batch) ->
    batch.

    Runs in microbatches of the update's own shape.
    """
    fields, model, config = scored_fields(setup), setup.model, setup.config
    if not fields:
        return lambda params, frozen, batch: batch
    parts = config.algorithm.num_minibatches * config.training.num_microbatches

    def forward(trees: Any, batch: PolicyBatch) -> dict[str, Any]:
        params, frozen = trees

        def logps(tree: Params) -> Any:
            options = {"scored": batch.scored, "temperature": config.algorithm.temperature}
            return setup.policy.token_logps(tree, batch.tokens, batch.mask, **options)[0]

        scored = {}
        if "old_logps" in fields:
            scored["old_logps"] = logps(setup.policy_params(params))
        if "ref_logps" in fields:
            scored["ref_logps"] = logps(frozen["ref"])
        if "values" in fields:
            critic = params if setup.critic is None else params["critic"]
            scored["values"] = token_values(model, critic, batch)
        return scored

    forward_all = make_score(forward, num_microbatches=parts)

    def fill(trees: Any, batch: PolicyBatch) -> dict[str, Any]:
        scored = forward_all(trees, batch)
        if (
            "old_logps" in scored
            and batch.on_policy is not None
            and batch.sampler_logps is not None
        ):
            # groups carried over were sampled by an older policy: its log-probabilities are the
            # sampler's
            scored["old_logps"] = jnp.where(
                batch.on_policy[:, None], scored["old_logps"], batch.sampler_logps
            )
        return scored

    score = jax.jit(fill, out_shardings=batch_sharding(setup.mesh))
    return lambda params, frozen, batch: batch._replace(**score((params, frozen), batch))


def make_online_update(setup: OnlineSetup, shardings: Any) -> Update:
    """prepare, then epochs x minibatches x microbatches, in one program. The state is donated."""
    algorithm, config = setup.algorithm, setup.config
    step = make_update_step(
        algorithm.loss,
        setup.tx,
        weigh=algorithm.weigh,
        num_microbatches=config.training.num_microbatches,
    )
    epochs = make_epochs(
        step,
        num_epochs=config.algorithm.num_epochs,
        num_minibatches=config.algorithm.num_minibatches,
        mesh=setup.mesh,
    )

    def update(state: TrainState, frozen: Params, batch: PolicyBatch) -> tuple[TrainState, Metrics]:
        key, step_key = jax.random.split(state.key)
        batch, aux, prepared = algorithm.prepare(batch, state.aux)
        state, metrics = epochs(state._replace(key=key, aux=aux), frozen, batch, step_key)
        return state, prepared | metrics

    return jax.jit(update, donate_argnums=0, out_shardings=(shardings, replicated(setup.mesh)))
