"""From a configuration to whoever completes prompts and whoever grades the completions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlhf_jax.config import Config, MeasureConfig
from rlhf_jax.data import FastTokenizer, PromptLoader, make_prompt_loader
from rlhf_jax.loops.grading import RewardGrader
from rlhf_jax.loops.held_out import HeldOutPrompts, LogRatios
from rlhf_jax.models import load_pretrained
from rlhf_jax.programs import jitted
from rlhf_jax.rewards import RewardConfig
from rlhf_jax.rewards.judging import Judge, make_judge
from rlhf_jax.rewards.model import make_model_rewards
from rlhf_jax.rewards.registry import MODEL, model_path
from rlhf_jax.rollout import (
    Generator,
    GeneratorSampler,
    Sampler,
    SamplingParams,
    Watch,
    make_generator,
)
from rlhf_jax.runs.rollout_layout import chunk_of, sampler_of
from rlhf_jax.runs.trees import execution
from rlhf_jax.sharding import infer_shardings, row_shards
from rlhf_jax.types import Model, Params


def make_prompts(
    config: Config | MeasureConfig, tokenizer: FastTokenizer, split: Any
) -> PromptLoader:
    """The prompts of a split."""
    batch_size = config.rollout.prompts_per_batch or config.training.batch_size
    return make_prompt_loader(
        config.data,
        tokenizer,
        split=split,
        batch_size=batch_size,
        max_prompt_len=config.rollout.max_prompt_len,
        seed=config.seed,
    )


def make_sampler(
    config: Config | MeasureConfig,
    mesh: Mesh,
    policy: Model,
    tokenizer: FastTokenizer,
    *,
    prompt_buckets: tuple[int, ...],
    temperature: float,
    stop_ids: tuple[int, ...] | None = None,
    watch: Watch | None = None,
) -> Sampler:
    """The built-in sampler of a run: on the training layout, or with the parameters laid out anew
    for generation (`rollout.mesh`).

    Args:
      config: rollout and model sections.
      mesh: of training.
      policy: its functions.
      tokenizer: says what ends a completion.
      prompt_buckets: widths of prompts.
      temperature: of training.
      stop_ids: what ends a completion in place of the tokenizer's stops.
      watch: see `rlhf_jax.rollout.make_generator`.
    """
    rollout = config.rollout
    section = config.model
    sampling_mesh, model, replicate = sampler_of(config, mesh, policy)
    dtype = jnp.dtype(section.compute_dtype or section.dtype)

    def generator(group_size: int, buckets: tuple[int, ...]) -> Generator:
        return make_generator(
            model,
            mesh=sampling_mesh,
            max_new_tokens=rollout.max_new_tokens,
            eos_ids=tokenizer.stop_ids if stop_ids is None else stop_ids,
            pad_id=tokenizer.pad_id,
            group_size=group_size,
            prompt_buckets=buckets,
            slots=rollout.slots,
            chunk=chunk_of(config),
            missing_ids=tokenizer.missing_ids(policy.config.vocab_size),
            string_end=tokenizer.string_end() if stop_ids is None else None,
            watch=watch,
        )

    lay_out = make_lay_out(section.dtype, dtype, mesh, sampling_mesh, replicate)

    return GeneratorSampler(
        generator,
        sampling=SamplingParams(temperature, rollout.top_p, rollout.top_k, rollout.min_p),
        prompt_buckets=prompt_buckets,
        max_new_tokens=rollout.max_new_tokens,
        lay_out=lay_out,
    )


def make_lay_out(
    dtype: str, wanted: jnp.dtype, mesh: Mesh, sampling_mesh: Mesh, replicate: Sequence[str]
) -> Callable[[Params], Params]:
    """Builds what turns the trainer's parameters into those to sample with: a copy that lives as
    long as a generation, or the parameters themselves where they lie right.

    Args:
      dtype: of the trainer's.
      wanted: to sample with. Decoding reads every weight at every token: half the bytes, twice the
        speed.
      mesh: of the trainer.
      sampling_mesh: to sample on.
      replicate: names that are kept whole there.
    """
    if wanted == jnp.dtype(dtype) and sampling_mesh == mesh:
        return lambda params: params
    programs: dict[Any, Callable[[Params], Params]] = {}

    def cast(params: Params) -> Params:
        return jax.tree.map(lambda x: x.astype(wanted), params)

    def lay_out(params: Params) -> Params:
        shardings = infer_shardings(params, sampling_mesh, replicate=replicate)
        if sampling_mesh.size != mesh.size:  # one program has one set of devices
            return jax.device_put(cast(params), shardings)
        structure = jax.tree.structure(params)
        if structure not in programs:
            # One program, in which nothing pins the cast parameters to the training layout: pinned,
            # it would gather whole stacks of layers (14.2 GB instead of 2.3 of an 8B model).
            programs[structure] = jitted(cast, out_shardings=shardings)
        return programs[structure](params)

    return lay_out


def make_grader(
    config: Config | MeasureConfig,
    tokenizer: FastTokenizer,
    *,
    mesh: Mesh,
    rows_at_once: int,
    judge: Judge | None = None,
) -> RewardGrader:
    """The built-in grader.

    Args:
      config: rewards, their processes, and who judges at evaluation.
      tokenizer: of the policy.
      mesh: of reward models.
      rows_at_once: rows in a forward pass of a reward model.
      judge: who says right or wrong of what is trained on; None: as at evaluation.
    """
    held_out = make_judge(config.rewards, config.evaluation.accuracy_reward)
    return RewardGrader(
        config.rewards,
        config.reward_pool,
        tokenizer,
        models=_reward_models(config, tokenizer, mesh=mesh, rows_at_once=rows_at_once),
        judge=held_out if judge is None else judge,
        held_out=held_out,
        skip_special_tokens=config.rollout.skip_special_tokens,
        divided=True,
    )


def held_out_prompts(
    config: MeasureConfig,
    prompts: PromptLoader,
    mesh: Mesh,
    *,
    group_size: int,
    log_ratios: LogRatios | None = None,
) -> HeldOutPrompts:
    """What an evaluation asks, and how many at a time.

    Args:
      config: what is measured.
      prompts: of the held-out split.
      mesh: its rows must be divided evenly.
      group_size: completions per prompt while training, whose number of rows fits.
      log_ratios: from `load_log_ratios`.
    """
    evaluation = config.evaluation
    count = prompts.num_examples
    if evaluation.max_prompts is not None:
        count = min(evaluation.max_prompts, count)
    rows = config.training.batch_size * group_size
    like_training = max(1, rows // max(evaluation.samples, 1))
    per_batch = min(count, config.training.eval_batch_size or like_training)
    shards = row_shards(mesh)
    rollout = config.rollout
    temperature = 1.0 if evaluation.temperature is None else evaluation.temperature
    top_p = rollout.top_p if evaluation.top_p is None else evaluation.top_p
    return HeldOutPrompts(
        prompts=prompts,
        number=count,
        per_batch=-(-per_batch // shards) * shards,
        samples=evaluation.samples,
        sampling=SamplingParams(temperature, top_p, rollout.top_k, rollout.min_p),
        seed=config.seed,
        log_ratios=log_ratios,
    )


def _reward_models(
    config: Config | MeasureConfig, tokenizer: FastTokenizer, *, mesh: Mesh, rows_at_once: int
) -> Mapping[str, Callable[[Any, Any], np.ndarray]]:
    return {
        reward.label: _load_reward_model(
            reward, config, tokenizer, mesh=mesh, rows_at_once=rows_at_once
        )
        for reward in config.rewards
        if reward.function == MODEL
    }


def _load_reward_model(
    reward: RewardConfig,
    config: Config | MeasureConfig,
    tokenizer: FastTokenizer,
    *,
    mesh: Mesh,
    rows_at_once: int,
) -> Callable[[Any, Any], np.ndarray]:
    """The reward model that a reward's option `path` names, on the policy's mesh.

    Raises:
      ValueError: no path, another option, or a model that embeds fewer tokens than the tokenizer
        has.
    """
    path = model_path(reward)
    section = config.model
    options = {**execution(config), "compute_dtype": None}
    model, params = load_pretrained(
        path,
        dtype=section.compute_dtype or section.dtype,
        mesh=mesh,
        replicate=config.mesh.replicate,
        head="reward",
        **options,
    )
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"rewards: the reward model {path} embeds {model.config.vocab_size} tokens and the "
            f"policy's tokenizer has {tokenizer.vocab_size}; a reward model must share the "
            "policy's tokenizer"
        )
    return make_model_rewards(model, params, mesh=mesh, rows_at_once=rows_at_once)
