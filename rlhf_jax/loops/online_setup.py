"""From a configuration to everything that the online loop needs."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from rlhf_jax.algorithms import ALGORITHMS, DAPOConfig, PPOConfig
from rlhf_jax.config import Config, algorithm_name
from rlhf_jax.data import FastTokenizer, PromptBatch, PromptLoader, make_prompt_loader
from rlhf_jax.loops.grading import Grader
from rlhf_jax.loops.groups import Groups, filler_groups, widths
from rlhf_jax.loops.resume import Source, check_steps, data_start
from rlhf_jax.loops.setup import (
    check_positions,
    check_vocabulary,
    context_of,
    load_reference,
    make_policy,
    make_tokenizer,
)
from rlhf_jax.loops.stops import warn_of_hidden_tags
from rlhf_jax.models import load_pretrained, make_model
from rlhf_jax.rewards.registry import MODEL, model_path
from rlhf_jax.rollout import GenerationStats, SamplingParams, StringEnd, make_generator
from rlhf_jax.sharding import infer_shardings, make_mesh, row_shards
from rlhf_jax.training import make_optimizer, make_policy_critic_optimizer, make_schedule
from rlhf_jax.types import Algorithm, Key, Model, Params, Rollout

Sample = Callable[[Params, PromptBatch, Key, SamplingParams], tuple[Rollout, GenerationStats]]
"""(policy's parameters, prompts, key, sampling) -> completions, group-major."""


class OnlineSetup(NamedTuple):
    """A run of PPO, GRPO or DAPO before its first step."""

    config: Config
    run_dir: pathlib.Path
    tokenizer: FastTokenizer
    prompts: PromptLoader
    eval_prompts: PromptLoader | None
    mesh: Mesh
    policy: Model
    """What samples and is exported."""
    model: Model
    """What is trained: the policy's functions and, for PPO, the critic's `scores`."""
    critic: Model | None
    """A critic of its own, or None."""
    params: Params
    algorithm: Algorithm
    tx: optax.GradientTransformation
    schedule: Any
    total_steps: int
    updates_per_step: int
    frozen: Params
    sample: Sample
    """`group_size` completions per prompt."""
    sample_greedy: Sample
    """One completion per prompt, for evaluation."""
    sample_held_out: Sample
    """`evaluation.samples` completions per prompt."""
    grader: Grader
    total_widths: tuple[int, ...]
    scored_widths: tuple[int, ...]
    data_start: int = 0
    """The step at which the order of the prompts begins (`loops.resume.data_start`)."""

    @property
    def group_size(self) -> int:
        """Completions per prompt."""
        return int(self.config.algorithm.group_size)

    @property
    def shards(self) -> int:
        """Devices over which rows are divided."""
        return row_shards(self.mesh)

    def filler(self, count: int) -> Groups:
        """Empty groups of the run's shape."""
        return filler_groups(
            count, group_size=self.group_size, width=self.width, num_rewards=len(self.grader.names)
        )

    @property
    def width(self) -> int:
        """Longest row."""
        return self.total_widths[-1]

    def policy_params(self, params: Params) -> Params:
        """The policy's tree among the trained parameters."""
        return params if self.critic is None else params["policy"]


def make_online_setup(config: Config, *, source: Source | None = None) -> OnlineSetup:
    """Builds everything that a configuration names, cheapest mistakes first.

    Args:
      config: a whole run.
      source: the checkpoint that it begins at; None: at its start.

    Returns:
      An `OnlineSetup`; parameters are already in their shards.

    Raises:
      ValueError: anything in the configuration that cannot be done, in one line.
    """
    mesh = make_mesh(config.mesh)
    config = dataclasses.replace(config, algorithm=resolved_algorithm(config))
    check_online_batch(config, mesh)
    run_dir, rollout = pathlib.Path(config.run_dir), config.rollout
    tokenizer = make_tokenizer(config, run_dir, "prompts")
    prompts, eval_prompts = make_prompts(config, tokenizer)
    steps_per_epoch = -(-prompts.num_examples // config.training.batch_size)
    first = data_start(source, prompts.fingerprint, in_batches=False)
    total_steps = config.training.max_steps or first + config.training.num_epochs * steps_per_epoch
    check_steps(config, source, total_steps)
    updates = int(config.algorithm.num_epochs * config.algorithm.num_minibatches)
    shared = isinstance(config.algorithm, PPOConfig) and config.algorithm.critic == "shared"
    policy, params = make_policy(config, mesh, "value" if shared else None)
    check_vocabulary(policy, tokenizer)
    width = max(prompts.buckets) + rollout.max_new_tokens
    options = "rollout.max_prompt_len or rollout.max_new_tokens"
    held_out_width = (
        max(eval_prompts.buckets, default=0) + rollout.max_new_tokens if eval_prompts else 0
    )
    check_positions(policy, max(width, held_out_width), options=options)
    warn_of_hidden_tags(config, tokenizer)
    grader = Grader(config, tokenizer, mesh=mesh)
    frozen = make_online_frozen(config, mesh, policy, params)
    widest = (
        prompts.buckets
        if eval_prompts is None
        else tuple(sorted({*prompts.buckets, *eval_prompts.buckets}))
    )
    sampler: dict[str, Any] = {
        "pad_id": tokenizer.pad_id,
        "prompt_buckets": widest,
        "stop_ids": tokenizer.stop_ids,
        "missing_ids": tokenizer.missing_ids(policy.config.vocab_size),
        "string_end": tokenizer.string_end(),
    }
    critic, critic_params = make_critic(config, mesh, policy, params)
    if critic is not None:
        check_vocabulary(critic, tokenizer)
        check_positions(critic, width, options=options, name="critic")
    model = policy if critic is None else policy._replace(scores=critic.scores)
    return OnlineSetup(
        config=config,
        run_dir=run_dir,
        tokenizer=tokenizer,
        prompts=prompts,
        eval_prompts=eval_prompts,
        mesh=mesh,
        policy=policy,
        model=model,
        critic=critic,
        params=params if critic is None else {"policy": params, "critic": critic_params},
        algorithm=ALGORITHMS[algorithm_name(config.algorithm)](config.algorithm, model),
        tx=make_tx(config, total_steps * updates, critic),
        schedule=make_schedule(
            config.optimizer, total_steps=total_steps * updates - warmup_updates(config)
        ),
        total_steps=total_steps,
        updates_per_step=updates,
        frozen=frozen,
        sample=make_sample(config, mesh, policy, group_size=config.algorithm.group_size, **sampler),
        sample_greedy=make_sample(config, mesh, policy, group_size=1, **sampler),
        sample_held_out=make_sample(
            config, mesh, policy, group_size=max(config.evaluation.samples, 1), **sampler
        ),
        grader=grader,
        total_widths=widths(width),
        scored_widths=widths(rollout.max_new_tokens),
        data_start=first,
    )


def resolved_algorithm(config: Config) -> Any:
    """The algorithm's configuration with what it takes from other sections filled in: DAPO's length
    limit."""
    algorithm = config.algorithm
    if isinstance(algorithm, DAPOConfig) and algorithm.max_new_tokens is None:
        return dataclasses.replace(algorithm, max_new_tokens=config.rollout.max_new_tokens)
    return algorithm


def check_online_batch(config: Config, mesh: Mesh) -> None:
    """Refuses a number of completions that mesh, minibatches and microbatches do not divide."""
    algorithm, training, shards = config.algorithm, config.training, row_shards(mesh)
    rows, parts = (
        training.batch_size * algorithm.group_size,
        algorithm.num_minibatches * training.num_microbatches * shards,
    )
    if rows % parts:
        raise ValueError(
            f"training.batch_size={training.batch_size} prompts of "
            f"algorithm.group_size={algorithm.group_size} completions are "
            f"{rows} rows, which must be a multiple of {parts} "
            f"(num_minibatches={algorithm.num_minibatches} x "
            f"num_microbatches={training.num_microbatches} x mesh data x fsdp={shards})"
        )


def make_prompts(
    config: Config, tokenizer: FastTokenizer
) -> tuple[PromptLoader, PromptLoader | None]:
    """(training prompts, held-out prompts)."""
    options: dict[str, Any] = {"max_prompt_len": config.rollout.max_prompt_len, "seed": config.seed}
    batch_size = config.rollout.prompts_per_batch or config.training.batch_size
    prompts = make_prompt_loader(
        config.data, tokenizer, split="train", batch_size=batch_size, **options
    )
    if not config.data.has_eval:
        return prompts, None
    return prompts, make_prompt_loader(
        config.data, tokenizer, split="eval", batch_size=batch_size, **options
    )


def make_online_frozen(config: Config, mesh: Mesh, policy: Model, params: Params) -> Params:
    """{"ref": ...} where there is a KL penalty; without one no second model is in memory."""
    if isinstance(config.algorithm, DAPOConfig) or config.algorithm.kl_coef == 0:
        return {}
    if config.model.reference is not None:
        return {"ref": load_reference(config, mesh, policy)}
    return {"ref": jax.tree.map(jnp.copy, params)}


def make_critic(
    config: Config, mesh: Mesh, policy: Model, params: Params
) -> tuple[Model | None, Params]:
    """PPO's critic of its own: `model.critic`, else the reward model among the rewards, else the
    policy with a new head."""
    if not isinstance(config.algorithm, PPOConfig) or config.algorithm.critic == "shared":
        return None, {}
    section = config.model
    path = section.critic or next(
        (model_path(reward) for reward in config.rewards if reward.function == MODEL), None
    )
    execution: dict[str, Any] = {
        "compute_dtype": section.compute_dtype,
        "remat": section.remat,
        "layers": section.layers,
        "attention": section.attention,
        "context": context_of(config),
    }
    if path is not None:
        replicate = config.mesh.replicate
        return load_pretrained(
            path, dtype=section.dtype, mesh=mesh, replicate=replicate, head="reward", **execution
        )
    critic = make_model(policy.config, mesh=mesh, head="reward", **execution)
    tree = {
        name: jax.tree.map(jnp.copy, leaves) for name, leaves in params.items() if name != "unembed"
    }
    kernel = jnp.zeros((policy.config.hidden_size,), section.dtype)
    sharding = infer_shardings({"score": {"kernel": kernel}}, mesh)["score"]["kernel"]
    return critic, {**tree, "score": {"kernel": jax.device_put(kernel, sharding)}}


def make_tx(
    config: Config, total_updates: int, critic: Model | None
) -> optax.GradientTransformation:
    """The optimizer; two of them side by side when the critic is a model of its own."""
    if critic is None:
        return make_optimizer(config.optimizer, total_steps=total_updates)
    return make_policy_critic_optimizer(
        config.optimizer,
        critic_learning_rate=config.algorithm.critic_learning_rate,
        critic_warmup=config.algorithm.critic_warmup,
        total_steps=total_updates,
    )


def warmup_updates(config: Config) -> int:
    """Updates in the beginning that leave the policy alone."""
    return config.algorithm.critic_warmup if isinstance(config.algorithm, PPOConfig) else 0


def make_sample(
    config: Config,
    mesh: Mesh,
    policy: Model,
    *,
    group_size: int,
    pad_id: int,
    prompt_buckets: tuple[int, ...],
    stop_ids: tuple[int, ...],
    missing_ids: tuple[int, ...] = (),
    string_end: StringEnd | None = None,
) -> Sample:
    """The sampler of a run: on the training layout, or with the parameters laid out anew for
    generation (`rollout.mesh`)."""
    rollout, section = config.rollout, config.model
    sampling_mesh, model = mesh, policy
    if rollout.mesh is not None:
        sampling_mesh = make_mesh(rollout.mesh, devices=list(mesh.devices.flat))
        model = make_model(
            policy.config,
            mesh=sampling_mesh,
            compute_dtype=section.compute_dtype,
            layers=section.layers,
            attention=section.attention,
            head=None if policy.scores is None else "value",
            context=context_of(config),
        )
    dtype = jnp.dtype(section.compute_dtype or section.dtype)
    generator = make_generator(
        model,
        mesh=sampling_mesh,
        max_new_tokens=rollout.max_new_tokens,
        eos_ids=stop_ids,
        pad_id=pad_id,
        group_size=group_size,
        prompt_buckets=prompt_buckets,
        slots=rollout.slots,
        chunk=min(rollout.chunk, rollout.max_new_tokens),
        missing_ids=missing_ids,
        string_end=string_end,
    )

    def laid_out(params: Params) -> Params:
        # decoding reads every weight at every token: half the bytes, twice the speed
        if dtype != jnp.dtype(section.dtype):
            params = jax.tree.map(lambda x: x.astype(dtype), params)
        if rollout.mesh is None:
            return params
        return jax.device_put(
            params, infer_shardings(params, sampling_mesh, replicate=rollout.mesh.replicate)
        )

    def sample(
        params: Params, prompts: PromptBatch, key: Key, sampling: SamplingParams
    ) -> tuple[Rollout, GenerationStats]:
        return generator(
            laid_out(params), prompts.tokens, np.asarray(prompts.lengths), key, sampling
        )

    return sample
