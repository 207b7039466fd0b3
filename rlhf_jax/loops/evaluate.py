"""`evaluate(config)`: the metrics of a model, or of a checkpoint, on the held-out split."""

import dataclasses
import pathlib
import tempfile

import jax

from rlhf_jax.algorithms import ALGORITHMS
from rlhf_jax.config import Config, algorithm_name, trained_vocab_size
from rlhf_jax.data import FastTokenizer, load_tokenizer, make_loader
from rlhf_jax.loops.evaluate_online import evaluate_checkpoints, evaluate_folder
from rlhf_jax.loops.export import find_run, load_checkpoint
from rlhf_jax.loops.held_out import evaluate_loader, make_eval_step, per_document
from rlhf_jax.loops.reference import precision_of, reference_logps
from rlhf_jax.loops.setup import (
    check_batch,
    check_vocabulary,
    context_of,
    load_reference,
    make_policy,
)
from rlhf_jax.loops.stops import with_run_stops
from rlhf_jax.models import local_folder, read_config
from rlhf_jax.sharding import make_mesh
from rlhf_jax.types import Params


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
    name = algorithm_name(config.algorithm)
    kind, head = config.algorithm.data, config.algorithm.head
    if config.is_online:
        return (
            evaluate_folder(config)
            if checkpoint is None
            else evaluate_checkpoints(config, checkpoint, [step])[0]
        )
    mesh = make_mesh(config.mesh)
    check_batch(config, mesh)
    if checkpoint is None:
        tokenizer = _tokenizer(config)
        if (
            head is not None
            and config.model.path is not None
            and read_config(local_folder(config.model.path)).lm_head
        ):
            raise ValueError(
                f"model.path={config.model.path} is a language model without a {head} head: there "
                "is nothing to measure"
            )
        model, params = make_policy(config, mesh, head)
    else:
        run_dir, step = find_run(checkpoint, step)
        tokenizer = load_tokenizer(run_dir / "tokenizer")
        section = config.model
        model, params = load_checkpoint(
            run_dir,
            step,
            mesh=mesh,
            replicate=config.mesh.replicate,
            compute_dtype=section.compute_dtype,
            remat=section.remat,
            layers=section.layers,
            attention=section.attention,
            context=context_of(config),
        )
    check_vocabulary(model, tokenizer)
    batch_size = config.training.eval_batch_size or config.training.batch_size
    loader = make_loader(
        config.data, tokenizer, kind=kind, split="eval", batch_size=batch_size, seed=config.seed
    )
    algorithm = ALGORITHMS[name](config.algorithm, model)
    reference = _reference(
        config, checkpoint, needed="ref_logps" in algorithm.needs or "ref" in algorithm.frozen
    )
    frozen: Params = {}
    ref_logps = None
    if reference is not None:
        ref_params = load_reference(reference, mesh, model)
        if "ref" in algorithm.frozen:
            frozen = {"ref": ref_params}
        else:
            precision = precision_of(reference)
            with tempfile.TemporaryDirectory() as folder:
                ref_logps = reference_logps(
                    model,
                    ref_params,
                    loader,
                    mesh=mesh,
                    batch_size=batch_size,
                    cache_dir=pathlib.Path(folder),
                    precision=precision,
                )
    eval_step = jax.jit(make_eval_step(algorithm, per_document=per_document(config)))
    return evaluate_loader(
        eval_step, params, frozen, loader, mesh=mesh, batch_size=batch_size, ref_logps=ref_logps
    )


def _tokenizer(config: Config) -> FastTokenizer:
    if trained_vocab_size(config.tokenizer) is not None:
        raise ValueError(
            f"tokenizer={config.tokenizer!r} is trained during a run: evaluate the run folder or "
            "the exported folder instead"
        )
    tokenizer = load_tokenizer(
        config.tokenizer or config.model.path, chat_template=config.data.chat_template
    )
    return with_run_stops(tokenizer, config)


def _reference(config: Config, checkpoint: str | None, *, needed: bool) -> Config | None:
    """The configuration whose `model.reference` is what the policy is compared with."""
    if not needed:
        return None
    if config.model.reference is not None:
        return config
    if checkpoint is None or config.model.path is None:
        raise ValueError(
            "model.reference is not set: without it a model is compared with itself and every "
            "reward is 0; "
            "give the folder the training started from"
        )
    return dataclasses.replace(
        config, model=dataclasses.replace(config.model, reference=config.model.path)
    )
