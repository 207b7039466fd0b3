"""Our side of the GRPO and the PPO iteration, in a process of its own: what the online loop does in
a step, from a configuration.

The files in FOLDER and the protocol are those of `grpo_sides` and `ppo_sides`. An iteration draws
and tokenises prompts, samples, decodes to text, has the completions graded in the pool of
processes, builds the batch, scores and updates; only the writing of metrics and completions to the
run folder is left out.
"""

import argparse
import json
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from rlhf_jax.algorithms import GRPOConfig, PPOConfig, forward
from rlhf_jax.bench import grpo_sides, ppo_sides, sides
from rlhf_jax.bench.low_ids import vocab_size
from rlhf_jax.config import Config, ModelSection, TrainingConfig
from rlhf_jax.data import DataConfig, FastTokenizer
from rlhf_jax.loops.groups import from_rollout
from rlhf_jax.rewards import RewardConfig, TrainerState
from rlhf_jax.rollout import GenerationStats, RolloutConfig, Sampled, Sampler
from rlhf_jax.runs.footprint import is_small
from rlhf_jax.runs.offline import jitted
from rlhf_jax.runs.online import entered
from rlhf_jax.runs.online_parts import OnlineParts, make_online_parts
from rlhf_jax.runs.sampling import make_sampler
from rlhf_jax.sharding import replicated
from rlhf_jax.training import (
    OptimizerConfig,
    TrainState,
    make_optimizers,
    make_rate,
    make_sharded_state,
    make_step,
)
from rlhf_jax.training.allocator import retain_freed_memory
from rlhf_jax.types import PolicyBatch, Rollout, Trees

STEPS = 10**6
"""Of the configured run, of which the driver asks for a few."""


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
    is_ragged = bool((np.load(folder / "lengths.npy") < args.new_tokens).any())
    clip_norm = None if is_ppo else 1.0  # TRL's PPO clips no gradient
    return Config(
        algorithm=algorithm,
        run_dir=str(folder / args.side),
        data=DataConfig(path=str(folder / "prompts.jsonl"), shuffle=False),
        tokenizer=str(folder / "tokenizer"),
        model=ModelSection(
            path=str(folder / "model"), compute_dtype=sides.compute_dtype(), **models
        ),
        rollout=RolloutConfig(max_prompt_len=width, max_new_tokens=args.new_tokens),
        rewards=(RewardConfig(function="rlhf_jax.bench.low_ids:low_ids"),),
        training=TrainingConfig(
            batch_size=count,
            num_microbatches=args.microbatches,
            max_steps=STEPS,
            # Rows that are full by construction and share no prompt leave nothing to pack.
            pack=False if is_ppo and not is_ragged else None,
        ),
        optimizer=OptimizerConfig(
            learning_rate=grpo_sides.LEARNING_RATE, schedule="constant", max_grad_norm=clip_norm
        ),
    )


def _word(token: int) -> str:
    return f"<{token}>"  # no word is in another: special tokens are found anywhere in a text


def with_lengths(parts: OnlineParts, lengths: np.ndarray) -> OnlineParts:
    """The same run, whose completions no token ends, and which are cut as on the other sides.

    Args:
      parts: the run.
      lengths: int [B], of the completions of every generation batch.
    """
    endless = make_sampler(
        parts.config,
        parts.mesh,
        parts.loaded.model,
        parts.tokenizer,
        prompt_buckets=parts.prompts.buckets,
        temperature=parts.sampling.temperature,
        stop_ids=(),
    )
    return parts._replace(sampler=CutSampler(endless, lengths, parts.tokenizer.pad_id))


class CutSampler:
    """A sampler whose completions are cut after given lengths, as if their end had come."""

    def __init__(self, sampler: Sampler, lengths: np.ndarray, pad_id: int) -> None:
        """Cuts what `sampler` returns.

        Args:
          sampler: whose completions have their full length.
          lengths: int [B], of every row of a generation batch.
          pad_id: takes the place of what is cut off.
        """
        self.sampler = sampler
        self.lengths = lengths
        self.pad_id = pad_id
        self.width = sampler.width
        self.max_scored = sampler.max_scored

    def __call__(self, *args: Any, **options: Any) -> Sampled:
        """As the sampler, cut."""
        sampled = self.sampler(*args, **options)
        return sampled._replace(rollout=cut(sampled.rollout, self.lengths, self.pad_id))


def cut(rollout: Rollout, lengths: np.ndarray, pad_id: int) -> Rollout:
    """Completions cut after given lengths.

    Args:
      rollout: NumPy arrays; no completion is shorter than its length.
      lengths: int [B].
      pad_id: takes the place of what is cut off.
    """
    place = np.cumsum(rollout.completion_mask, axis=1)
    gone = rollout.completion_mask & (place > lengths[:, None])
    arrays: Any = (
        np.where(gone, pad_id, rollout.tokens),
        rollout.mask & ~gone,
        rollout.completion_mask & ~gone,
        np.where(gone, 0, rollout.logps),
        rollout.truncated & ~gone.any(1),
    )
    return Rollout(*arrays)


def given_batch(parts: OnlineParts, completions: np.ndarray, lengths: np.ndarray) -> PolicyBatch:
    """The gate's completions, graded, as the loop's batch.

    Args:
      parts: the run.
      completions: int32 [B, T].
      lengths: int [B], after which they are cut.
    """
    count = parts.prompts.num_examples
    prompts = parts.prompts.take(np.arange(count))
    repeated = np.repeat(prompts.tokens, parts.sampling.group_size, axis=0)
    tokens = np.concatenate([repeated, completions], axis=1)
    chosen = np.broadcast_to(np.arange(tokens.shape[1]) >= prompts.tokens.shape[1], tokens.shape)
    arrays: Any = (
        tokens,
        np.ones_like(chosen),
        chosen,
        np.zeros(tokens.shape, np.float32),
        np.ones(len(tokens), bool),
    )
    rollout = cut(Rollout(*arrays), lengths, parts.tokenizer.pad_id)
    stats = GenerationStats(completions.size, completions.size, utilisation=1.0, seconds=0.0)
    grades = parts.grader(
        prompts,
        Sampled(rollout, stats),
        state=TrainerState(global_step=0, max_steps=STEPS, epoch=0.0, num_train_epochs=1),
        training=False,
    )
    groups = from_rollout(
        rollout,
        prompt=np.arange(count),
        prompt_length=prompts.lengths,
        width=parts.sampler.width,
        rewards=grades.total,
        per_reward=grades.per_reward,
        step=0,
    )
    # Sampled by nobody: the ratio must be taken against the log-probabilities that are given.
    return parts.to_device(groups, 0)._replace(on_policy=None)


def old_logps(
    args: argparse.Namespace,
    parts: OnlineParts,
    trees: Trees,
    batch: PolicyBatch,
    noise: np.ndarray,
) -> jax.Array:
    """The trainer's own log-probabilities of the gate's completions, moved by `noise` as
    `grpo_sides` and `ppo_sides` say."""
    score = jax.jit(forward.old_logps(parts.loaded.model, parts.sampling.temperature))
    logps = score(trees, batch)
    shift = jnp.pad(noise, ((0, 0), (batch.tokens.shape[1] - noise.shape[1], 0)))
    if args.algorithm == "ppo":
        shift = shift - jnp.log1p(jnp.exp(logps) * jnp.expm1(shift))
    return jnp.where(batch.completion_mask, logps + shift, 0)


def run(args: argparse.Namespace, parts: OnlineParts) -> None:
    """Answers the driver: the gate, then iterations of the online loop."""
    config = parts.config
    optimizer = (config.optimizer, config.algorithm.models.trained)
    updates = STEPS * parts.sampling.num_updates
    tx = make_optimizers(*optimizer, total_steps=updates)
    rate = make_rate(*optimizer, total_steps=updates)
    state, shardings = make_sharded_state(
        parts.loaded.trained,
        tx,
        jax.random.key(0),
        mesh=parts.mesh,
        aux=dict(parts.algorithm.aux),
    )
    update = make_step(
        parts.algorithm,
        tx,
        num_microbatches=config.training.microbatches,
        mesh=parts.mesh,
        learning_rate=rate,
    )
    train = jitted(update, shardings=(shardings, replicated(parts.mesh)))
    score = parts.score()
    collect = parts.collector(STEPS, lambda columns: None)
    frozen = parts.loaded.frozen
    rollouts = collect.begin()
    step = 0

    def gate() -> dict[str, float]:
        names = ("completions.npy", "noise.npy", "lengths.npy")
        given, noise, lengths = (np.load(args.folder / name) for name in names)
        batch = given_batch(parts, given, lengths)
        old = old_logps(args, parts, state.params, batch, noise)
        batch = score(state.params, frozen, batch)._replace(old_logps=old)
        copy: TrainState = jax.tree.map(jnp.copy, state)
        metrics = train(copy, frozen, batch)[1]
        losses = ("loss/policy", "loss/value") if args.algorithm == "ppo" else ("loss/total",)
        return {name: float(metrics[name]) for name in (*losses, "grad_norm")}

    def iterate() -> dict[str, float]:
        nonlocal state, step, rollouts
        policy = state.params["policy"]
        collected = collect(policy, rollouts, step=step, stopped=lambda: False)
        assert collected.groups is not None
        batch = parts.to_device(collected.groups, step)
        sampled = time.perf_counter()
        batch = jax.block_until_ready(score(state.params, frozen, batch))
        scored = time.perf_counter()
        state, metrics = train(state, frozen, batch)
        jax.device_get(metrics)
        step = step + 1
        rollouts = collected.rest
        seconds = {
            "generation": collected.metrics["time/generate"],
            "reward": collected.metrics["time/reward"],
        }
        return seconds | {"score": scored - sampled, "update": time.perf_counter() - scored}

    with entered(parts.grader):
        grpo_sides.serve(gate, iterate, windows=args.windows)


def main() -> None:
    """Runs our side."""
    args = grpo_sides.parse()
    vocab = vocab_size(args.folder / "model")
    config = make_config(args, prompts=np.load(args.folder / "prompts.npy"), vocab=vocab)
    if is_small(config):  # as `train` decides, before JAX starts its backend
        retain_freed_memory()
    parts = make_online_parts(config, pathlib.Path(config.run_dir))
    run(args, with_lengths(parts, np.load(args.folder / "lengths.npy")))


if __name__ == "__main__":
    main()
