"""`evaluate(config)`: the metrics of a model, or of a checkpoint, on the held-out split."""

import contextlib
import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from jax.sharding import Mesh

from rlhf_jax.algorithms import make_algorithm
from rlhf_jax.config import (
    Config,
    MeasureConfig,
    ModelSection,
    measure_config,
    trained_vocab_size,
)
from rlhf_jax.data import FastTokenizer, Loader, load_tokenizer, make_loader
from rlhf_jax.loops.grading import RewardGrader
from rlhf_jax.loops.held_out import (
    HeldOut,
    HeldOutPrompts,
    evaluate_loader,
    evaluate_prompts,
)
from rlhf_jax.models import local_folder, read_config
from rlhf_jax.rewards import TrainerState
from rlhf_jax.rollout import Sampler
from rlhf_jax.runs.cached import cached_scores, jitted_scores, precision_of
from rlhf_jax.runs.compilation import keep_programs
from rlhf_jax.runs.export import architecture_of, find_run, load_checkpoint
from rlhf_jax.runs.footprint import device_bytes
from rlhf_jax.runs.log_ratios import load_log_ratios
from rlhf_jax.runs.offline import jitted_evaluation
from rlhf_jax.runs.parts import (
    check_batch,
    check_positions,
    check_vocabulary,
    make_tokenizer,
    packing_of,
    read_tokenizer,
)
from rlhf_jax.runs.plan.microbatches import with_microbatches
from rlhf_jax.runs.rollout_layout import cached_tokens, with_rollout_mesh
from rlhf_jax.runs.sampling import held_out_prompts, make_grader, make_prompts, make_sampler
from rlhf_jax.runs.stops import with_run_stops
from rlhf_jax.runs.trees import execution, load_policy, load_reference
from rlhf_jax.sharding import make_mesh
from rlhf_jax.types import Algorithm, Model, Models, Params, Trees


def evaluate(
    config: Config, *, checkpoint: str | None = None, step: int | None = None
) -> dict[str, float]:
    """Metrics over the held-out split: of the algorithm's own loss, or, online, of the model's
    answers to the prompts.

    Args:
      config: algorithm, data and model. `run_dir` is not written to.
      checkpoint: a run folder or one checkpoint in it, whose weights are evaluated; None:
        `model.path` is.
      step: which checkpoint of a run folder; None: the newest.

    Returns:
      Metric name -> value.

    Raises:
      ValueError: no held-out split, no reference to compare with, or a model that cannot be loaded.
    """
    with keep_programs(config.training.compilation_cache):
        if not config.is_online:
            return _evaluate_loss(config, checkpoint, step)
        measured = measure_config(config)
        if checkpoint is None:
            return evaluate_folder(measured)
        return evaluate_checkpoints(measured, checkpoint, [step])[0]


def _evaluate_loss(config: Config, checkpoint: str | None, step: int | None) -> dict[str, float]:
    mesh = make_mesh(config.mesh)
    if config.training.num_microbatches == "auto":
        config = with_microbatches(config, 1)  # nothing is updated
    check_batch(config, mesh)
    model, params, tokenizer = _policy(config, checkpoint, step, mesh)
    check_vocabulary(model, tokenizer)
    batch_size = config.training.eval_batch_size or config.training.batch_size
    loader = make_loader(
        config.data,
        tokenizer,
        kind=config.algorithm.data,
        split="eval",
        batch_size=batch_size,
        seed=config.seed,
        packing=packing_of(config, mesh),
    )
    algorithm = make_algorithm(config.algorithm, model)
    models: Models = config.algorithm.models
    frozen: Trees = {}
    cached: dict[str, np.ndarray] = {}
    if models.reference != "none":
        compared = _with_reference(config, checkpoint)
        reference = {"ref": load_reference(compared, mesh, model)[1]}
        if models.reference == "always":
            frozen = reference
        cached = _cached(algorithm, reference, loader, model=model, mesh=mesh, config=compared)
    return evaluate_loader(
        jitted_evaluation(algorithm),
        {"policy": params},
        frozen,
        loader,
        mesh=mesh,
        batch_size=batch_size,
        cached=cached,
    )


def _policy(
    config: Config, checkpoint: str | None, step: int | None, mesh: Mesh
) -> tuple[Model, Params, FastTokenizer]:
    """The model at hand, and its tokenizer."""
    head = config.algorithm.models.trained["policy"].head
    if checkpoint is None:
        tokenizer = _tokenizer(config)
        path = config.model.path
        if head is not None and path is not None and read_config(local_folder(path)).lm_head:
            raise ValueError(
                f"model.path={path} is a language model without a {head} head: there is nothing to "
                "measure"
            )
        return *load_policy(config, mesh, head), tokenizer
    run_dir, step = find_run(checkpoint, step)
    model, params = load_checkpoint(
        run_dir,
        step,
        mesh=mesh,
        replicate=config.mesh.replicate,
        remat=config.model.remat,
        **execution(config),
    )
    return model, params, load_tokenizer(run_dir / "tokenizer")


def _cached(
    algorithm: Algorithm,
    reference: Trees,
    loader: Loader,
    *,
    model: Model,
    mesh: Mesh,
    config: Config,
) -> dict[str, np.ndarray]:
    if not algorithm.cached:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        return cached_scores(
            algorithm.cached,
            jitted_scores(algorithm.cached),
            reference,
            loader,
            model=model,
            mesh=mesh,
            batch_size=config.training.eval_batch_size or config.training.batch_size,
            cache_dir=pathlib.Path(folder),
            precision=precision_of(config),
        )


def _tokenizer(config: Config) -> FastTokenizer:
    if trained_vocab_size(config.tokenizer) is not None:
        raise ValueError(
            f"tokenizer={config.tokenizer!r} is trained during a run: evaluate the run folder or "
            "the exported folder instead"
        )
    source = config.tokenizer or config.model.path
    return with_run_stops(read_tokenizer(source, config.data.chat_template), config)


def _with_reference(config: Config, checkpoint: str | None) -> Config:
    """The configuration whose `model.reference` is what the policy is compared with."""
    if config.model.reference is not None:
        return config
    if checkpoint is None or config.model.path is None:
        raise ValueError(
            "model.reference is not set: without it a model is compared with itself and every "
            "reward is 0; "
            "give the folder the training started from"
        )
    section = dataclasses.replace(config.model, reference=config.model.path)
    return dataclasses.replace(config, model=section)


class Measuring(NamedTuple):
    """What it takes to measure answers, and no more: no critic, no reference, no optimizer."""

    mesh: Mesh
    params: Params
    asked: HeldOutPrompts
    sampler: Sampler
    grader: RewardGrader

    def answers(self, params: Params) -> HeldOut:
        """A model's completions of the held-out prompts (`evaluate_prompts`)."""
        return evaluate_prompts(
            params,
            self.asked,
            sampler=self.sampler,
            grader=self.grader,
            state=TrainerState(),
        )

    def metrics(self, params: Params) -> dict[str, float]:
        """Of the same."""
        return self.answers(params).metrics


@contextlib.contextmanager
def measuring(
    config: MeasureConfig, *, split: Literal["train", "eval"] = "eval"
) -> Iterator[Measuring]:
    """Loads the model at hand, and whoever samples and grades.

    Args:
      config: what is measured; its `model.path` is the model at hand.
      split: whose prompts are asked.

    Raises:
      ValueError: no held-out prompts, or anything that cannot be loaded.
    """
    if split == "eval" and not config.data.has_eval:
        raise ValueError(
            "there are no held-out prompts: give data.eval_path, eval_split, eval_fraction or "
            "eval_size"
        )
    mesh = make_mesh(config.mesh)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make_tokenizer(config, pathlib.Path(folder), "prompts")
    prompts = make_prompts(config, tokenizer, split)
    model, params = load_policy(config, mesh, None)
    check_vocabulary(model, tokenizer)
    temperature = config.evaluation.temperature
    config = with_rollout_mesh(
        config,
        mesh,
        model,
        held=functools.partial(device_bytes, params, mesh, replicate=config.mesh.replicate),
        cached=cached_tokens(
            config,
            prompt_width=max(prompts.buckets),
            group_size=max(config.evaluation.samples, 1),
        ),
    )
    sampler = make_sampler(
        config,
        mesh,
        model,
        tokenizer,
        prompt_buckets=prompts.buckets,
        temperature=1.0 if temperature is None else temperature,
    )
    options = "rollout.max_prompt_len or rollout.max_new_tokens"
    check_positions(model, sampler.width, options=options)
    asked = held_out_prompts(config, prompts, mesh, group_size=max(config.evaluation.samples, 1))
    log_ratios = load_log_ratios(
        config,
        tokenizer,
        mesh=mesh,
        rows_at_once=asked.per_batch,
        max_scored=sampler.max_scored,
    )
    asked = asked._replace(log_ratios=log_ratios)
    grader = make_grader(config, tokenizer, mesh=mesh, rows_at_once=asked.per_batch)
    with grader:
        yield Measuring(mesh, params, asked, sampler, grader)


def evaluate_folder(
    config: MeasureConfig, folder: str | pathlib.Path | None = None
) -> dict[str, float]:
    """Metrics of a model's completions of the held-out prompts (`evaluate_prompts`).

    Args:
      config: what is measured.
      folder: Hugging Face folder or hub id of the model; None: the configuration's.

    Returns:
      Metric name -> value.
    """
    if folder is not None:
        section = dataclasses.replace(config.model, path=str(folder), config=None)
        config = dataclasses.replace(config, model=section)
    with measuring(config) as parts:
        return parts.metrics(parts.params)


def evaluate_checkpoints(
    config: MeasureConfig, checkpoint: str | pathlib.Path, steps: list[int | None]
) -> list[dict[str, float]]:
    """The same for the policies in checkpoints of a run, of any algorithm with a language model.

    Args:
      config: what is measured.
      checkpoint: a run folder, or one checkpoint in it.
      steps: which checkpoints of a run folder; None: the newest.

    Returns:
      Metrics of each.
    """
    return [found.metrics for found in answers_of_checkpoints(config, checkpoint, steps)]


def answers_of_checkpoints(
    config: MeasureConfig, checkpoint: str | pathlib.Path, steps: list[int | None]
) -> list[HeldOut]:
    """What the metrics of `evaluate_checkpoints` are made of; arguments as there."""
    found = [find_run(str(checkpoint), step) for step in steps]
    run_dir, first = found[0]
    architecture = architecture_of(run_dir, first)
    section: ModelSection = dataclasses.replace(config.model, path=None, config=architecture)
    tokenizer = str(run_dir / "tokenizer")
    answers = []
    with measuring(dataclasses.replace(config, model=section, tokenizer=tokenizer)) as parts:
        for _, step in found:
            _, params = load_checkpoint(
                run_dir, step, mesh=parts.mesh, replicate=config.mesh.replicate
            )
            # without a shared value head
            policy = {name: leaves for name, leaves in params.items() if name in parts.params}
            answers.append(parts.answers(policy))
    return answers
