"""Our side of the GRPO and the PPO iteration, in a process of its own: the pieces that the online loop calls, in its order.

The files in FOLDER and the protocol are those of `grpo_sides` and `ppo_sides`.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlhf_jax.algorithms import ALGORITHMS, GRPOConfig, PPOConfig
from rlhf_jax.algorithms.ppo import token_values
from rlhf_jax.bench import grpo_sides, ppo_sides
from rlhf_jax.bench.low_ids import low_ids
from rlhf_jax.models import load_pretrained
from rlhf_jax.rollout import SamplingParams, make_generator
from rlhf_jax.training import (
    OptimizerConfig,
    make_epochs,
    make_optimizer,
    make_policy_critic_optimizer,
    make_score,
    make_train_state,
    make_update_step,
)
from rlhf_jax.training.allocator import retain_freed_memory
from rlhf_jax.types import Algorithm, Key, Metrics, Model, Params, PolicyBatch


class Iteration(NamedTuple):
    """What an iteration of one algorithm is made of."""

    algorithm: Algorithm
    tx: optax.GradientTransformation
    model: Model
    params: Params
    policy: Callable[[Params], Params]
    """The sampled tree within the trained ones."""
    score: Callable[[Params, PolicyBatch], PolicyBatch]
    """Fills what `prepare` needs. Jitted, or the identity."""
    old_logps: Callable[[Params, PolicyBatch], jax.Array]
    """The trainer's own log-probabilities, for the gate."""
    group_size: int
    num_microbatches: int


def make_grpo(args: argparse.Namespace) -> Iteration:
    """One update, no KL: nothing to score, the rows are on the policy."""
    model, params = load_pretrained(args.folder / "model")
    config = GRPOConfig(group_size=grpo_sides.GROUP, clip_low=grpo_sides.CLIP, clip_high=grpo_sides.CLIP)
    return Iteration(
        algorithm=ALGORITHMS["grpo"](config, model),
        tx=make_optimizer(OptimizerConfig(learning_rate=grpo_sides.LEARNING_RATE, schedule="constant")),
        model=model,
        params=params,
        policy=lambda params: params,
        score=lambda params, batch: batch,
        old_logps=jax.jit(functools.partial(_logps, model)),
        group_size=config.group_size,
        num_microbatches=args.microbatches,
    )


def make_ppo(args: argparse.Namespace) -> Iteration:
    """One epoch, a critic of its own, k1 to a reference in the reward: old and reference logps and values are scored."""
    model, policy = load_pretrained(args.folder / "model", head="value", key=jax.random.key(0))
    ref_model, reference = load_pretrained(args.folder / "reference")
    critic = load_pretrained(args.folder / "critic", head="reward")[1]
    config = PPOConfig(
        clip_low=ppo_sides.CLIP,
        clip_high=ppo_sides.CLIP,
        value_clip=ppo_sides.VALUE_CLIP,
        vf_coef=ppo_sides.VF_COEF,
        kl_coef=ppo_sides.KL_COEF,
        gae_lambda=ppo_sides.GAE_LAMBDA,
        num_epochs=1,
    )
    optimizer = OptimizerConfig(learning_rate=ppo_sides.LEARNING_RATE, schedule="constant", max_grad_norm=None)  # as in TRL's PPO

    def scores(trees: Any, batch: PolicyBatch) -> dict[str, jax.Array]:
        params, reference = trees["trained"], trees["reference"]
        old_logps, ref_logps = _logps(model, params["policy"], batch), _logps(ref_model, reference, batch)
        return {"old_logps": old_logps, "ref_logps": ref_logps, "values": token_values(model, params["critic"], batch)}

    score = jax.jit(make_score(scores, num_microbatches=args.microbatches))
    return Iteration(
        algorithm=ALGORITHMS["ppo"](config, model),
        tx=make_policy_critic_optimizer(optimizer),
        model=model,
        params={"policy": policy, "critic": critic},
        policy=lambda params: params["policy"],
        score=lambda params, batch: batch._replace(**score({"trained": params, "reference": reference}, batch)),
        old_logps=jax.jit(lambda params, batch: _logps(model, params["policy"], batch)),
        group_size=1,
        num_microbatches=args.microbatches,
    )


def _logps(model: Model, params: Params, batch: PolicyBatch) -> jax.Array:
    return model.token_logps(params, batch.tokens, batch.mask, scored=batch.scored)[0]


def batch_of(tokens: np.ndarray, width: int, logps: np.ndarray | None = None) -> PolicyBatch:
    """A batch of completions without padding, with their rewards.

    Args:
      tokens: int32 [B, T].
      width: tokens of a prompt.
      logps: of the sampler; with them, the rows are on the policy.
    """
    rows, length = tokens.shape
    completion = np.broadcast_to(np.arange(length) >= width, tokens.shape)
    scored = np.broadcast_to(np.arange(width, length, dtype=np.int32), (rows, length - width))
    rewards = low_ids([], [], tokens[:, width:].tolist())
    on_policy = None if logps is None else np.ones(rows, bool)
    fields = {"tokens": tokens, "mask": np.ones_like(completion), "completion_mask": completion, "scored": scored}
    fields |= {"rewards": np.array(rewards, np.float32), "truncated": np.ones(rows, bool)}
    return PolicyBatch(**jax.tree.map(jnp.asarray, fields | {"sampler_logps": logps, "on_policy": on_policy}))


def run(args: argparse.Namespace, iteration: Iteration) -> None:
    """Answers the driver: the gate, then iterations."""
    prompts = np.load(args.folder / "prompts.npy")
    width = prompts.shape[1]
    lengths = np.full(len(prompts), width, np.int32)
    update = make_update_step(
        iteration.algorithm.loss, iteration.tx, weigh=iteration.algorithm.weigh, num_microbatches=iteration.num_microbatches
    )
    epochs = make_epochs(update, num_epochs=1, num_minibatches=1)

    def step(state: Any, batch: PolicyBatch, key: Key) -> tuple[Any, Metrics]:
        batch, _, metrics = iteration.algorithm.prepare(batch, state.aux)
        state, more = epochs(state, {}, batch, key)
        return state, metrics | more

    generator = make_generator(
        iteration.model,
        mesh=None,
        max_new_tokens=args.new_tokens,
        eos_ids=(),
        pad_id=0,
        group_size=iteration.group_size,
        prompt_buckets=(width,),
    )
    state = make_train_state(iteration.params, iteration.tx, jax.random.key(0), aux=iteration.algorithm.aux)
    donating, keys = jax.jit(step, donate_argnums=0), iter(jax.random.split(jax.random.key(1), args.windows))

    def gate() -> dict[str, float]:
        given, noise = (np.load(args.folder / name) for name in ("completions.npy", "noise.npy"))
        tokens = np.concatenate([np.repeat(prompts, iteration.group_size, 0), given], 1)
        batch = batch_of(tokens, width)
        logps = iteration.old_logps(state.params, batch)
        shift = jnp.pad(noise, ((0, 0), (width, 0)))
        if args.algorithm == "ppo":
            shift = shift - jnp.log1p(jnp.exp(logps) * jnp.expm1(shift))
        batch = iteration.score(state.params, batch)._replace(old_logps=jnp.where(batch.completion_mask, logps + shift, 0))
        metrics = jax.jit(step)(state, batch, jax.random.key(0))[1]
        names = ("loss/policy", "loss/value") if args.algorithm == "ppo" else ("loss/total",)
        return {name: float(metrics[name]) for name in (*names, "grad_norm")}

    def iterate() -> dict[str, float]:
        nonlocal state
        start = time.perf_counter()
        key = next(keys)
        rollout, _ = generator(iteration.policy(state.params), prompts, lengths, key, SamplingParams())
        generated = time.perf_counter()
        batch = iteration.score(state.params, batch_of(np.asarray(rollout.tokens), width, np.asarray(rollout.logps)))
        state, metrics = donating(state, batch, key)
        jax.block_until_ready(metrics)
        return {"generation": generated - start}

    grpo_sides.serve(gate, iterate, windows=args.windows)


def main() -> None:
    """Runs our side."""
    retain_freed_memory()  # before JAX starts its backend
    args = grpo_sides.parse()
    run(args, make_ppo(args) if args.algorithm == "ppo" else make_grpo(args))


if __name__ == "__main__":
    main()
