"""From a configuration to everything that a loop needs: tokenizer, loaders, mesh, model, algorithm,
optimizer."""

import dataclasses
import logging
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from rlhf_jax.algorithms import ALGORITHMS
from rlhf_jax.config import Config, algorithm_name, trained_vocab_size
from rlhf_jax.data import (
    FastTokenizer,
    Kind,
    Loader,
    iterate_texts,
    load_tokenizer,
    make_loader,
    train_tokenizer,
)
from rlhf_jax.io.disk import naming
from rlhf_jax.loops.resume import Source, check_steps, data_start
from rlhf_jax.loops.stops import with_run_stops
from rlhf_jax.models import ModelConfig, init_model, load_pretrained
from rlhf_jax.sharding import make_mesh, row_shards
from rlhf_jax.training import MovementCheck, make_optimizer, make_schedule, peak_rate, warmup_length
from rlhf_jax.types import Algorithm, Model, Params

_log = logging.getLogger(__name__)

NOT_ARCHITECTURE = (
    "max_position",
    "initializer_range",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
"""Fields of `ModelConfig` in which a reference may differ from the policy."""


class Setup(NamedTuple):
    """A run before its first step."""

    config: Config
    run_dir: pathlib.Path
    tokenizer: FastTokenizer
    train_loader: Loader
    eval_loader: Loader | None
    mesh: Mesh
    model: Model
    params: Params
    algorithm: Algorithm
    tx: optax.GradientTransformation
    schedule: Any
    total_steps: int
    frozen: Params
    data_start: int = 0
    """The step at which the order of the data begins (`loops.resume.data_start`)."""


def make_setup(config: Config, *, source: Source | None = None) -> Setup:
    """Builds everything that a configuration names, cheapest mistakes first.

    Args:
      config: a whole run.
      source: the checkpoint that it begins at; None: at its start.

    Returns:
      A `Setup`; parameters are already in their shards.

    Raises:
      ValueError: anything in the configuration that cannot be done, in one line.
    """
    kind, head = config.algorithm.data, config.algorithm.head
    if kind == "prompts":
        raise ValueError(
            f"algorithm.name={algorithm_name(config.algorithm)!r} samples its own completions; "
            "this version trains sft, "
            "reward_model and dpo from a configuration, and offers the online algorithms as losses "
            "(rlhf_jax.algorithms)"
        )
    mesh = make_mesh(config.mesh)
    check_batch(config, mesh)
    run_dir = pathlib.Path(config.run_dir)
    tokenizer = make_tokenizer(config, run_dir, kind)
    batch_size = config.training.batch_size
    options = {"kind": kind, "seed": config.seed, "cache_dir": run_dir / "cache"}
    train_loader = make_loader(
        config.data, tokenizer, split="train", batch_size=batch_size, **options
    )
    eval_size = config.training.eval_batch_size or batch_size
    eval_loader = None
    if config.data.has_eval:
        eval_loader = make_loader(
            config.data, tokenizer, split="eval", batch_size=eval_size, **options
        )
    first = data_start(source, train_loader.fingerprint, in_batches=True)
    total_steps = (
        config.training.max_steps
        or first + config.training.num_epochs * train_loader.batches_per_epoch
    )
    check_steps(config, source, total_steps)
    tx = make_optimizer(config.optimizer, total_steps=total_steps)
    model, params = make_policy(config, mesh, head)
    check_vocabulary(model, tokenizer)
    longest = max(
        width
        for loader in (train_loader, eval_loader)
        if loader is not None
        for width in loader.buckets
    )
    check_positions(model, longest, options=f"data.max_length={config.data.max_length}")
    algorithm = ALGORITHMS[algorithm_name(config.algorithm)](config.algorithm, model)
    return Setup(
        config=config,
        run_dir=run_dir,
        tokenizer=tokenizer,
        train_loader=train_loader,
        eval_loader=eval_loader,
        mesh=mesh,
        model=model,
        params=params,
        algorithm=algorithm,
        tx=tx,
        schedule=make_schedule(config.optimizer, total_steps=total_steps),
        total_steps=total_steps,
        frozen=make_frozen(config, algorithm, mesh, model, params),
        data_start=first,
    )


def check_batch(config: Config, mesh: Mesh) -> None:
    """Refuses batch sizes that the mesh and the microbatches do not divide."""
    shards = row_shards(mesh)
    training = config.training
    for name, size, parts in (
        ("batch_size", training.batch_size, training.num_microbatches * shards),
        ("eval_batch_size", training.eval_batch_size or training.batch_size, shards),
    ):
        if size % parts:
            raise ValueError(
                f"training.{name}={size} must be a multiple of {parts} (mesh data x fsdp = {shards}"
                + (
                    f", num_microbatches = {training.num_microbatches})"
                    if name == "batch_size"
                    else ")"
                )
            )


def make_tokenizer(config: Config, run_dir: pathlib.Path, kind: Kind) -> FastTokenizer:
    """The tokenizer that `config.tokenizer` names, loaded or trained (`bpe:SIZE`), and kept in the
    run folder."""
    size = trained_vocab_size(config.tokenizer)
    folder = run_dir / "tokenizer"
    if folder.is_dir():  # a resumed run
        return with_run_stops(load_tokenizer(folder), config)
    source = config.tokenizer or config.model.path
    if size is not None:
        source = str(run_dir / "cache" / "trained_tokenizer")
        with naming(source):
            train_tokenizer(iterate_texts(config.data, kind=kind), size).save(source)
        _log.info("trained a tokenizer of %d tokens on the training text", size)
    tokenizer = with_run_stops(
        load_tokenizer(source, chat_template=config.data.chat_template), config
    )
    with naming(folder):
        tokenizer.save(folder)
    return tokenizer


def make_policy(config: Config, mesh: Mesh, head: str | None) -> tuple[Model, Params]:
    """The model that starts the run: loaded, or with random weights from `model.config`."""
    section = config.model
    options: dict[str, Any] = {
        "dtype": section.dtype,
        "mesh": mesh,
        "compute_dtype": section.compute_dtype,
        "remat": section.remat,
        "layers": section.layers,
        "attention": section.attention,
        "head": head,
        "context": context_of(config),
        "replicate": config.mesh.replicate,
    }
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    if section.path is not None:
        return load_pretrained(section.path, key=key, **options)
    return init_model(ModelConfig.from_hf(section.config or {}), key, **options)


def context_of(config: Config) -> int:
    """Longest row in tokens that every model of a run is made for (`rlhf_jax.models.rope`).

    It follows from the configuration alone: not from the rows at hand, so that training, sampling,
    reference and evaluation of a run agree whatever the widths of their batches are.

    Raises:
      ValueError: `model.context` is shorter than the rows.
    """
    rollout, given = config.rollout, config.model.context
    longest = (
        rollout.max_prompt_len + rollout.max_new_tokens
        if config.is_online
        else config.data.max_length
    )
    if given is not None and given < longest:
        where = (
            "rollout.max_prompt_len + rollout.max_new_tokens"
            if config.is_online
            else "data.max_length"
        )
        raise ValueError(
            f"model.context={given} is less than the run's longest row of {longest} tokens "
            f"({where})"
        )
    return given or longest


def watch_movement(
    config: Config, params: Params, *, mesh: Mesh, done: int, total: int, resting: int = 0
) -> MovementCheck:
    """Looks, once enough updates have been made, whether the parameters of a run move.

    Args:
      config: the run.
      params: the policy's parameters as they are now.
      mesh: their mesh.
      done: updates made so far.
      total: updates of the run.
      resting: updates in the beginning that leave these parameters alone.
    """
    warmup = resting + warmup_length(config.optimizer, total - resting)
    rate = peak_rate(config.optimizer)
    return MovementCheck(
        params, mesh=mesh, learning_rate=rate, warmup=max(warmup - done, 0), total=total - done
    )


def make_frozen(
    config: Config, algorithm: Algorithm, mesh: Mesh, model: Model, params: Params
) -> Params:
    """Parameters that the loss reads and training does not change: {"ref": ...} where the algorithm
    asks for them.

    A precomputed reference is scored before the first step, when it still is the start itself: no
    second copy.
    """
    if "ref" not in algorithm.frozen:
        return {}
    if config.model.reference is not None:
        return {"ref": load_reference(config, mesh, model)}
    return {"ref": jax.tree.map(jnp.copy, params)}


def load_reference(config: Config, mesh: Mesh, model: Model) -> Params:
    """The parameters of `model.reference`.

    Raises:
      ValueError: its architecture is not the policy's: its weights would mean something else there.
    """
    section = config.model
    reference, params = load_pretrained(
        str(section.reference), dtype=section.dtype, mesh=mesh, replicate=config.mesh.replicate
    )
    ours, theirs = dataclasses.asdict(model.config), dataclasses.asdict(reference.config)
    for name in ours:
        if ours[name] != theirs[name] and name not in NOT_ARCHITECTURE:
            raise ValueError(
                f"model.reference={section.reference} has {name}={theirs[name]!r} where the policy "
                f"has {ours[name]!r}; "
                "the reference must have the policy's architecture"
            )
    return params


def check_positions(model: Model, longest: int, *, options: str, name: str = "model") -> None:
    """Refuses rows longer than learned positions; warns where rotary positions go beyond what the
    model was made for.

    Args:
      model: a model of the run.
      longest: row, in tokens.
      options: that make rows so long.
      name: what the model is, for the message.
    """
    limit = model.config.max_position
    if longest <= limit:
        return
    if model.config.rope is None:
        raise ValueError(
            f"rows of {longest} tokens exceed the {name}'s {limit} learned positions; shorten "
            f"{options}"
        )
    _log.warning(
        "rows have up to %d tokens, the %s was made for %d (%s)", longest, name, limit, options
    )


def check_vocabulary(model: Model, tokenizer: FastTokenizer) -> None:
    """Refuses a tokenizer whose ids the model cannot embed."""
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the model embeds "
            f"vocab_size={model.config.vocab_size}; "
            "use the model's own tokenizer, or a larger vocab_size in model.config"
        )
