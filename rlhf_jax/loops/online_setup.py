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
from rlhf_jax.loops.grading import MODEL, Grader, model_path
from rlhf_jax.loops.groups import Groups, filler_groups, widths
from rlhf_jax.loops.setup import check_vocabulary, context_of, load_reference, make_policy, make_tokenizer
from rlhf_jax.models import load_pretrained, make_model
from rlhf_jax.rollout import GenerationStats, SamplingParams, make_generator
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
        return filler_groups(count, group_size=self.group_size, width=self.width, num_rewards=len(self.grader.names))

    @property
    def width(self) -> int:
        """Longest row."""
        return self.total_widths[-1]

    def policy_params(self, params: Params) -> Params:
        """The policy's tree among the trained parameters."""
        return params if self.critic is None else params["policy"]


def make_online_setup(config: Config) -> OnlineSetup:
    """Builds everything that a configuration names, cheapest mistakes first.

    Args:
      config: a whole run.

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
    total_steps = config.training.max_steps or config.training.num_epochs * steps_per_epoch
    updates = int(config.algorithm.num_epochs * config.algorithm.num_minibatches)
    shared = isinstance(config.algorithm, PPOConfig) and config.algorithm.critic == "shared"
    policy, params = make_policy(config, mesh, "value" if shared else None)
    check_vocabulary(policy, tokenizer)
    width = max(prompts.buckets) + rollout.max_new_tokens
    check_positions(policy, max(width, max(eval_prompts.buckets, default=0) + rollout.max_new_tokens if eval_prompts else 0))
    stop_ids = stop_tokens(config, tokenizer)
    grader = Grader(config, tokenizer, mesh=mesh, stop_ids=stop_ids)
    frozen = make_online_frozen(config, mesh, policy, params)
    widest = prompts.buckets if eval_prompts is None else tuple(sorted({*prompts.buckets, *eval_prompts.buckets}))
    sampler: dict[str, Any] = {"pad_id": tokenizer.pad_id, "prompt_buckets": widest, "stop_ids": stop_ids}
    critic, critic_params = make_critic(config, mesh, policy, params)
    if critic is not None:
        check_vocabulary(critic, tokenizer)
        check_positions(critic, width)
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
        schedule=make_schedule(config.optimizer, total_steps=total_steps * updates - warmup_updates(config)),
        total_steps=total_steps,
        updates_per_step=updates,
        frozen=frozen,
        sample=make_sample(config, mesh, policy, group_size=config.algorithm.group_size, **sampler),
        sample_greedy=make_sample(config, mesh, policy, group_size=1, **sampler),
        sample_held_out=make_sample(config, mesh, policy, group_size=max(config.evaluation.samples, 1), **sampler),
        grader=grader,
        total_widths=widths(width),
        scored_widths=widths(rollout.max_new_tokens),
    )


def resolved_algorithm(config: Config) -> Any:
    """The algorithm's configuration with what it takes from other sections filled in: DAPO's length limit."""
    algorithm = config.algorithm
    if isinstance(algorithm, DAPOConfig) and algorithm.max_new_tokens is None:
        return dataclasses.replace(algorithm, max_new_tokens=config.rollout.max_new_tokens)
    return algorithm


def check_online_batch(config: Config, mesh: Mesh) -> None:
    """Refuses a number of completions that mesh, minibatches and microbatches do not divide."""
    algorithm, training, shards = config.algorithm, config.training, row_shards(mesh)
    rows, parts = training.batch_size * algorithm.group_size, algorithm.num_minibatches * training.num_microbatches * shards
    if rows % parts:
        raise ValueError(
            f"training.batch_size={training.batch_size} prompts of algorithm.group_size={algorithm.group_size} completions are "
            f"{rows} rows, which must be a multiple of {parts} (num_minibatches={algorithm.num_minibatches} x "
            f"num_microbatches={training.num_microbatches} x mesh data x fsdp={shards})"
        )


def check_positions(model: Model, width: int) -> None:
    """Refuses rows longer than learned positions."""
    limit = model.config.max_position
    if model.config.rope is None and width > limit:
        raise ValueError(
            f"prompts and rollout.max_new_tokens make rows of {width} tokens, more than the model's {limit} learned positions; "
            "shorten rollout.max_prompt_len or rollout.max_new_tokens"
        )


def make_prompts(config: Config, tokenizer: FastTokenizer) -> tuple[PromptLoader, PromptLoader | None]:
    """(training prompts, held-out prompts)."""
    options: dict[str, Any] = {"max_prompt_len": config.rollout.max_prompt_len, "seed": config.seed}
    batch_size = config.rollout.prompts_per_batch or config.training.batch_size
    prompts = make_prompt_loader(config.data, tokenizer, split="train", batch_size=batch_size, **options)
    if not config.data.has_eval:
        return prompts, None
    return prompts, make_prompt_loader(config.data, tokenizer, split="eval", batch_size=batch_size, **options)


def stop_tokens(config: Config, tokenizer: FastTokenizer) -> tuple[int, ...]:
    """Ids of the tokens that end a completion: EOS and `rollout.stop`."""
    ids = [tokenizer.eos_id]
    for token in config.rollout.stop:
        found = tokenizer.backend.token_to_id(token)
        if found is None:
            raise ValueError(f"rollout.stop: {token!r} is not a token of the tokenizer; write it as it stands in the vocabulary")
        ids.append(found)
    return tuple(dict.fromkeys(ids))


def make_online_frozen(config: Config, mesh: Mesh, policy: Model, params: Params) -> Params:
    """{"ref": ...} where there is a KL penalty; without one no second model is in memory."""
    if isinstance(config.algorithm, DAPOConfig) or config.algorithm.kl_coef == 0:
        return {}
    if config.model.reference is not None:
        return {"ref": load_reference(config, mesh, policy)}
    return {"ref": jax.tree.map(jnp.copy, params)}


def make_critic(config: Config, mesh: Mesh, policy: Model, params: Params) -> tuple[Model | None, Params]:
    """PPO's critic of its own: `model.critic`, else the reward model among the rewards, else the policy with a new head."""
    if not isinstance(config.algorithm, PPOConfig) or config.algorithm.critic == "shared":
        return None, {}
    section = config.model
    path = section.critic or next((model_path(reward) for reward in config.rewards if reward.function == MODEL), None)
    execution: dict[str, Any] = {
        "compute_dtype": section.compute_dtype,
        "remat": section.remat,
        "layers": section.layers,
        "attention": section.attention,
        "context": context_of(config),
    }
    if path is not None:
        replicate = config.mesh.replicate
        return load_pretrained(path, dtype=section.dtype, mesh=mesh, replicate=replicate, head="reward", **execution)
    critic = make_model(policy.config, mesh=mesh, head="reward", **execution)
    tree = {name: jax.tree.map(jnp.copy, leaves) for name, leaves in params.items() if name != "unembed"}
    kernel = jnp.zeros((policy.config.hidden_size,), section.dtype)
    sharding = infer_shardings({"score": {"kernel": kernel}}, mesh)["score"]["kernel"]
    return critic, {**tree, "score": {"kernel": jax.device_put(kernel, sharding)}}


def make_tx(config: Config, total_updates: int, critic: Model | None) -> optax.GradientTransformation:
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
) -> Sample:
    """The sampler of a run: on the training layout, or with the parameters laid out anew for generation (`rollout.mesh`)."""
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
    )

    def laid_out(params: Params) -> Params:
        if dtype != jnp.dtype(section.dtype):  # decoding reads every weight at every token: half the bytes, twice the speed
            params = jax.tree.map(lambda x: x.astype(dtype), params)
        if rollout.mesh is None:
            return params
        return jax.device_put(params, infer_shardings(params, sampling_mesh, replicate=rollout.mesh.replicate))

    def sample(params: Params, prompts: PromptBatch, key: Key, sampling: SamplingParams) -> tuple[Rollout, GenerationStats]:
        return generator(laid_out(params), prompts.tokens, np.asarray(prompts.lengths), key, sampling)

    return sample
