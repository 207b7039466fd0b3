"""From a configuration to what every run needs: tokenizer, checks, and the numbers that several
parts of a run share."""

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from rlhf_jax.algorithms.presets import departures
from rlhf_jax.config import Config, MeasureConfig, trained_vocab_size
from rlhf_jax.data import FastTokenizer, Kind, iterate_texts, load_tokenizer, train_tokenizer
from rlhf_jax.data.chat import template_source
from rlhf_jax.data.rooms import Packing
from rlhf_jax.handed import handed, is_handed
from rlhf_jax.io.disk import naming
from rlhf_jax.models import ModelConfig
from rlhf_jax.runs.stops import with_run_stops
from rlhf_jax.sharding import row_shards
from rlhf_jax.sharding.processes import exchange, leader_first
from rlhf_jax.training import MovementCheck, check_rows, peak_rate, warmup_length
from rlhf_jax.types import Model, Trained, Trees

_log = logging.getLogger(__name__)


def log_preset(algorithm: Any) -> None:
    """Says which keys overrule the preset of an algorithm's configuration."""
    found = ", ".join(f"{name}={value}" for name, value in departures(algorithm).items())
    if found:
        _log.info("algorithm.preset=%s, except %s", vars(algorithm)["preset"], found)


def check_batch(config: Config, mesh: Mesh) -> None:
    """Refuses batch sizes that the mesh and the microbatches do not divide."""
    training = config.training
    check_rows(
        training.batch_size,
        num_microbatches=training.microbatches,
        mesh=mesh,
        name="training.batch_size",
    )
    rows = training.eval_batch_size or training.batch_size
    check_rows(rows, mesh=mesh, name="training.eval_batch_size")


def check_online_batch(config: Config, mesh: Mesh) -> None:
    """Refuses a number of completions that mesh, minibatches and microbatches do not divide."""
    sampling = config.algorithm.sampling
    training = config.training
    shards = row_shards(mesh)
    rows = training.batch_size * sampling.group_size
    parts = sampling.num_minibatches * training.microbatches * shards
    if rows % parts:
        raise ValueError(
            f"training.batch_size={training.batch_size} prompts of "
            f"algorithm.group_size={sampling.group_size} completions are {rows} rows, which must "
            f"be a multiple of {parts} (num_minibatches={sampling.num_minibatches} x "
            f"num_microbatches={training.microbatches} x mesh data x fsdp={shards})"
        )


def packing_of(config: Config, mesh: Mesh) -> Packing | None:
    """How a run packs sequences; None: it does not.

    Left to itself only on CPUs, where it was measured, with models of this package (one of one's
    own may not know packed rows) and with its blocked attention: others compute all of a row.
    """
    training = config.training
    wanted = training.pack is True or training.max_tokens_per_row is not None
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    is_blocked = config.model.attention == "blocked" or (
        config.model.attention == "auto" and on_cpu
    )
    measured = on_cpu and is_blocked and not config.model.given
    if training.pack is False or not (wanted or measured):
        return None
    return Packing(
        shards=row_shards(mesh),
        num_microbatches=training.microbatches,
        max_tokens_per_row=training.max_tokens_per_row,
        share_prompt=training.share_prompt,
        whole_rows=not is_blocked,
        always=wanted,
    )


def make_tokenizer(
    config: Config | MeasureConfig, run_dir: pathlib.Path, kind: Kind
) -> FastTokenizer:
    """The tokenizer that `config.tokenizer` names, loaded or trained (`bpe:SIZE`), and kept in the
    run folder, from which further processes take it."""
    tokenizer = leader_first("tokenizer", lambda: _made_tokenizer(config, run_dir, kind))
    check_same("tokenizer", tokenizer.fingerprint())
    return tokenizer


def check_same(what: str, fingerprint: str) -> None:
    """Refuses what is not the same on all hosts, which would train on different tokens.

    Args:
      what: it is, for the message.
      fingerprint: of what this process has.
    """
    seen = exchange(f"fingerprint of the {what}", fingerprint)
    other = next((number for number, found in enumerate(seen) if found != seen[0]), None)
    if other is not None:
        raise ValueError(
            f"the {what} of process {other} is not that of process 0: give all hosts the same files"
        )


def _made_tokenizer(
    config: Config | MeasureConfig, run_dir: pathlib.Path, kind: Kind
) -> FastTokenizer:
    size = trained_vocab_size(config.tokenizer)
    folder = run_dir / "tokenizer"
    # A resumed run has it already.
    if folder.is_dir():
        return with_run_stops(load_tokenizer(folder), config)
    source = config.tokenizer or config.model.path
    if size is not None:
        source = str(run_dir / "cache" / "trained_tokenizer")
        with naming(source):
            train_tokenizer(iterate_texts(config.data, kind=kind), size).save(source)
        _log.info("trained a tokenizer of %d tokens on the training text", size)
    tokenizer = with_run_stops(read_tokenizer(source, config.data.chat_template), config)
    with naming(folder):
        tokenizer.save(folder)
    return tokenizer


def read_tokenizer(source: str | None, chat_template: str | None) -> FastTokenizer:
    """The tokenizer of a place, or one that a program hands over."""
    if source is None or not is_handed(source):
        return load_tokenizer(source, chat_template=chat_template)
    given: FastTokenizer = handed("tokenizer", source, "tokenizer=...")
    if chat_template is None:
        return given
    return given.with_chat_template(template_source(chat_template))


def context_of(config: Config | MeasureConfig) -> int:
    """Longest row in tokens that every model of a run is made for (`rlhf_jax.models.rope`).

    It follows from the configuration alone: not from the rows at hand, so that training, sampling,
    reference and evaluation of a run agree whatever the widths of their batches are.

    Raises:
      ValueError: `model.context` is shorter than the rows.
    """
    rollout = config.rollout
    given = config.model.context
    longest = config.data.max_length
    where = "data.max_length"
    if config.is_online:
        longest = rollout.max_prompt_len + rollout.max_new_tokens
        where = "rollout.max_prompt_len + rollout.max_new_tokens"
    if given is not None and given < longest:
        raise ValueError(
            f"model.context={given} is less than the run's longest row of {longest} tokens "
            f"({where})"
        )
    return given or longest


def watch_movement(
    config: Config,
    trees: Trees,
    *,
    mesh: Mesh,
    trained: Mapping[str, Trained],
    done: int,
    total: int,
) -> MovementCheck:
    """Looks, once enough updates have been made, whether the policy moves.

    Args:
      config: the run.
      trees: what is trained, as it is now.
      mesh: its mesh.
      trained: how it is trained.
      done: updates made so far.
      total: updates of the run.
    """
    resting = trained["policy"].hold
    warmup = resting + warmup_length(config.optimizer, total - resting)
    return MovementCheck(
        trees["policy"],
        mesh=mesh,
        learning_rate=peak_rate(config.optimizer),
        warmup=max(warmup - done, 0),
        total=total - done,
    )


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
    if isinstance(model.config, ModelConfig) and model.config.rope is None:
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
