"""Our side of the GRPO and the PPO iteration, in a process of its own: what the online loop does in
a step, from a configuration.

The files in FOLDER and the protocol are those of `grpo_sides` and `ppo_sides`. An iteration draws
and tokenises prompts, samples, decodes to text, has the completions graded in the pool of
processes, builds the batch, scores and updates; only the writing of metrics and completions to the
run folder is left out.
"""

import argparse
import functools
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from rlhf_jax.algorithms import GRPOConfig, PPOConfig
from rlhf_jax.bench import grpo_sides, ppo_sides
from rlhf_jax.config import Config, ModelSection, TrainingConfig
from rlhf_jax.data import DataConfig, FastTokenizer
from rlhf_jax.loops.collect import Position, collect
from rlhf_jax.loops.groups import from_rollout, make_batch
from rlhf_jax.loops.online_setup import OnlineSetup, make_online_setup, make_sample
from rlhf_jax.loops.online_step import make_online_update, make_score_step
from rlhf_jax.loops.place import place_batch
from rlhf_jax.rewards import RewardConfig
from rlhf_jax.rollout import RolloutConfig
from rlhf_jax.training import OptimizerConfig, TrainState, make_sharded_state
from rlhf_jax.training.allocator import retain_freed_memory
from rlhf_jax.types import Params, PolicyBatch, Rollout


def make_config(args: argparse.Namespace, *, prompts: np.ndarray, vocab: int) -> Config:
    """The run as a user would configure it; writes its prompts and its tokenizer, whose words are
    the ids.

    Args:
      args: of the side.
      prompts: int32 [P, Tp].
      vocab: words of the tokenizer.
    """
    folder, count, width = args.folder, *prompts.shape
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({_word(i): i for i in range(vocab)}, unk_token=_word(0))
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    FastTokenizer(words, {"eos_token": _word(1), "pad_token": _word(0)}).save(folder / "tokenizer")
    rows = [json.dumps({"prompt": " ".join(map(_word, ids))}) for ids in prompts.tolist()]
    (folder / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    is_ppo = args.algorithm == "ppo"
    models: dict[str, Any] = (
        {"reference": str(folder / "reference"), "critic": str(folder / "critic")} if is_ppo else {}
    )
    clip: dict[str, Any] = {"clip_low": grpo_sides.CLIP, "clip_high": grpo_sides.CLIP}
    algorithm: GRPOConfig | PPOConfig = GRPOConfig(group_size=grpo_sides.GROUP, **clip)
    if is_ppo:
        algorithm = PPOConfig(
            value_clip=ppo_sides.VALUE_CLIP,
            vf_coef=ppo_sides.VF_COEF,
            kl_coef=ppo_sides.KL_COEF,
            gae_lambda=ppo_sides.GAE_LAMBDA,
            num_epochs=1,
            **clip,
        )
    clip_norm = None if is_ppo else 1.0  # TRL's PPO clips no gradient
    return Config(
        algorithm=algorithm,
        run_dir=str(folder / args.side),
        data=DataConfig(path=str(folder / "prompts.jsonl"), shuffle=False),
        tokenizer=str(folder / "tokenizer"),
        model=ModelSection(path=str(folder / "model"), **models),
        rollout=RolloutConfig(max_prompt_len=width, max_new_tokens=args.new_tokens),
        rewards=(RewardConfig(function="rlhf_jax.bench.low_ids:low_ids"),),
        training=TrainingConfig(
            batch_size=count, num_microbatches=args.microbatches, max_steps=10**6
        ),
        optimizer=OptimizerConfig(
            learning_rate=grpo_sides.LEARNING_RATE, schedule="constant", max_grad_norm=clip_norm
        ),
    )


def _word(token: int) -> str:
    return f"<{token}>"  # no word is in another: special tokens are found anywhere in a text


def without_eos(setup: OnlineSetup) -> OnlineSetup:
    """The same run, whose completions no token ends: every one has its full length, as on the other
    sides."""
    options: dict[str, Any] = {
        "pad_id": setup.tokenizer.pad_id,
        "prompt_buckets": setup.prompts.buckets,
        "stop_ids": (),
    }
    return setup._replace(
        sample=make_sample(
            setup.config, setup.mesh, setup.policy, group_size=setup.group_size, **options
        )
    )


def given_batch(setup: OnlineSetup, completions: np.ndarray) -> PolicyBatch:
    """The gate's completions, graded, as the loop's batch.

    Args:
      setup: the run.
      completions: int32 [B, T].
    """
    count = setup.prompts.num_examples
    prompts = setup.prompts.take(np.arange(count))
    tokens = np.concatenate([np.repeat(prompts.tokens, setup.group_size, 0), completions], 1)
    completion = np.broadcast_to(
        np.arange(tokens.shape[1]) >= prompts.tokens.shape[1], tokens.shape
    )
    arrays: Any = (
        tokens,
        np.ones_like(completion),
        completion,
        np.zeros(tokens.shape, np.float32),
        np.ones(len(tokens), bool),
    )
    rollout = Rollout(*arrays)
    grades = setup.grader.grade(prompts, rollout)
    numbers = {
        "prompt": np.arange(count),
        "prompt_length": prompts.lengths,
        "rewards": grades.total,
        "parts": grades.parts,
    }
    groups = from_rollout(rollout, width=setup.width, step=0, **numbers)
    return make_batch(
        groups, total_widths=setup.total_widths, scored_widths=setup.scored_widths, step=0
    )


def old_logps(
    setup: OnlineSetup, params: Params, batch: PolicyBatch, noise: np.ndarray
) -> jax.Array:
    """The trainer's own log-probabilities of the gate's completions, moved by `noise` as
    `grpo_sides` and `ppo_sides` say."""
    logps = jax.jit(functools.partial(setup.policy.token_logps, scored=batch.scored))(
        params, batch.tokens, batch.mask
    )[0]
    shift = jnp.pad(noise, ((0, 0), (batch.tokens.shape[1] - noise.shape[1], 0)))
    if isinstance(setup.config.algorithm, PPOConfig):
        shift = shift - jnp.log1p(jnp.exp(logps) * jnp.expm1(shift))
    return jnp.where(batch.completion_mask, logps + shift, 0)


def run(args: argparse.Namespace, setup: OnlineSetup) -> None:
    """Answers the driver: the gate, then iterations of the online loop."""
    options: dict[str, Any] = {"mesh": setup.mesh, "aux": setup.algorithm.aux}
    state, shardings = make_sharded_state(setup.params, setup.tx, jax.random.key(0), **options)
    score, update = make_score_step(setup), make_online_update(setup, shardings)
    step, pending, position = 0, setup.filler(0), Position()

    def gate() -> dict[str, float]:
        given, noise = (np.load(args.folder / name) for name in ("completions.npy", "noise.npy"))
        batch = place_batch(given_batch(setup, given)._replace(on_policy=None), setup.mesh)
        old = old_logps(setup, setup.policy_params(state.params), batch, noise)
        batch = score(state.params, setup.frozen, batch)._replace(old_logps=old)
        copy: TrainState = jax.tree.map(jnp.copy, state)
        metrics = update(copy, setup.frozen, batch)[1]
        names = ("loss/policy", "loss/value") if args.algorithm == "ppo" else ("loss/total",)
        return {name: float(metrics[name]) for name in (*names, "grad_norm")}

    def iterate() -> dict[str, float]:
        nonlocal state, step, pending, position
        params = setup.policy_params(state.params)
        collected = collect(setup, params, pending, position, step=step, stopped=lambda: False)
        assert collected.groups is not None
        widths = {"total_widths": setup.total_widths, "scored_widths": setup.scored_widths}
        batch = place_batch(make_batch(collected.groups, step=step, **widths), setup.mesh)
        sampled = time.perf_counter()
        batch = jax.block_until_ready(score(state.params, setup.frozen, batch))
        scored = time.perf_counter()
        state, metrics = update(state, setup.frozen, batch)
        jax.device_get(metrics)
        step, pending, position = step + 1, collected.pending, collected.position
        parts = {
            "generation": collected.metrics["time/generate"],
            "reward": collected.metrics["time/reward"],
        }
        return parts | {"score": scored - sampled, "update": time.perf_counter() - scored}

    with setup.grader:
        grpo_sides.serve(gate, iterate, windows=args.windows)


def main() -> None:
    """Runs our side."""
    retain_freed_memory()  # before JAX starts its backend
    args = grpo_sides.parse()
    config = make_config(args, prompts=np.load(args.folder / "prompts.npy"), vocab=grpo_sides.VOCAB)
    run(args, without_eos(make_online_setup(config)))


if __name__ == "__main__":
    main()
