"""Where a run begins: at its start, at its own newest checkpoint, or at a checkpoint of another run
(`checkpoint.start_from`).

A run that goes on from its own checkpoint must be the same run (`check_same_run`); only its number
of steps may grow. One that starts from another run takes over that run's whole state as far as it
fits, and every difference is written to the log.
"""

import logging
import pathlib
import shutil
from typing import Any

from rlhf_jax import cloud
from rlhf_jax.algorithms import algorithm_config, algorithm_name, find_algorithm
from rlhf_jax.cloud import Place
from rlhf_jax.config import Config, trained_vocab_size
from rlhf_jax.data import load_tokenizer
from rlhf_jax.data.digest import file_digest
from rlhf_jax.io import Checkpointer, CheckpointError, RunFolderError
from rlhf_jax.io.may_start import start_from_command
from rlhf_jax.loops.resume import Source, check_format
from rlhf_jax.models import local_folder
from rlhf_jax.rewards.registry import MODEL, model_path
from rlhf_jax.rewards.trust import fingerprint, untrusted
from rlhf_jax.sharding.processes import exchange
from rlhf_jax.training import make_schedule

_log = logging.getLogger(__name__)
ORDER = (
    "seed",
    "data.shuffle",
    "data.packing",
    "data.num_buckets",
    "data.pad_multiple",
    "data.buckets",
    "data.length_window",
)
"""Keys that the order of the examples depends on, besides what the fingerprint of the data
covers."""
TOKENIZER = ("tokenizer", "data.chat_template", "model.path")
"""Keys that decide which tokenizer a run has."""


def find_source(config: Config, checkpointer: Checkpointer, resume: int | None) -> Source | None:
    """What a run begins at; None at its start.

    Args:
      config: a whole run.
      checkpointer: of its own folder.
      resume: its newest checkpoint, which comes before `checkpoint.start_from`.

    Raises:
      ValueError: the other run is not one that this one can go on from.
    """
    if resume is not None:
        run_dir = cloud.place(config.run_dir, "run_dir")
        meta = checkpointer.read_meta(resume)
        check_format(meta, run_dir)
        return Source(run_dir, resume, meta)
    if config.checkpoint.start_from is None:
        return None
    run_dir, step = parse_start_from(config.checkpoint.start_from)
    if resolved(run_dir) == resolved(cloud.place(config.run_dir, "run_dir")):
        raise RunFolderError(
            f"checkpoint.start_from={config.checkpoint.start_from} is run_dir itself: give another "
            "run_dir"
        )
    if not (run_dir / "config.yaml").is_file():
        raise RunFolderError(
            f"checkpoint.start_from={run_dir} holds no config.yaml, so it is no run folder"
        )
    changes = tuple(config.differences_from(cloud.fetched(run_dir / "config.yaml")))
    with Checkpointer(run_dir / "checkpoints") as other:
        newest = agreed_step("checkpoint.start_from", run_dir, other.latest_step())
        if newest is None:
            raise CheckpointError(f"checkpoint.start_from={run_dir} holds no complete checkpoint")
        step = newest if step is None else step
        meta = other.read_meta(step)
        check_format(meta, run_dir)
        source = Source(run_dir, step, meta, changes, is_other=True)
    check_kind(config, source)
    ignored = ("run_dir:", "checkpoint.")
    listed = [change for change in changes if not change.startswith(ignored)]
    _log.info(
        "start from step %d of %s, %s",
        step,
        run_dir,
        f"{len(listed)} changes:" if listed else "nothing changed",
    )
    for change in listed:
        _log.info("  %s", change)
    return source


def agreed_step(key: str, run_dir: Place, step: int | None) -> int | None:
    """The newest checkpoint of a run, which all processes must see.

    Args:
      key: of the configuration, for the message.
      run_dir: the run's folder.
      step: what this process sees.

    Raises:
      RunFolderError: they do not see the same.
    """
    seen = exchange(f"newest checkpoint of {key}", step)
    other = next((number for number, found in enumerate(seen) if found != seen[0]), None)
    if other is not None:
        raise RunFolderError(
            f"{key}={run_dir}: the newest checkpoint is {seen[0]} for process 0 and "
            f"{seen[other]} for process {other}; all processes must share the folder"
        )
    return step


def resolved(path: Place) -> str:
    """One text for each folder."""
    return str(path if cloud.is_bucket(path) else path.resolve())


def parse_start_from(text: str) -> tuple[Place, int | None]:
    """`RUN`, `RUN@STEP` or `RUN/checkpoints/STEP` as run folder and step."""
    path = cloud.place(text, "checkpoint.start_from").expanduser()
    run, at, step = text.rpartition("@")
    if at and step.isdigit() and not path.is_dir():
        return cloud.place(run, "checkpoint.start_from").expanduser(), int(step)
    if path.parent.name == "checkpoints" and path.name.isdigit():
        return path.parent.parent, int(path.name)
    return path, None


def check_kind(config: Config, source: Source) -> None:
    """Refuses a run that was trained on something else: text, pairs or prompts."""
    ours = algorithm_name(config.algorithm)
    theirs = str(source.meta["algorithm"])
    if theirs == ours:
        return
    find_algorithm(theirs)
    old: Any = algorithm_config(theirs)
    if old.data != config.algorithm.data:
        raise RunFolderError(
            f"checkpoint.start_from={source.run_dir} is a run of {theirs} on {old.data}, this one "
            f"is of {ours} on "
            f"{config.algorithm.data}: to train its weights further use "
            f"model.path={source.run_dir}/export"
        )


def take_tokenizer(config: Config, source: Source | None, folder: pathlib.Path) -> None:
    """Another run's own tokenizer goes into the new run folder, unless the configuration asks for a
    different one.

    What ends an answer is the new run's `rollout.stop`, beside the tokenizer's and the model's own
    stops.

    Args:
      config: of the new run.
      source: where it begins.
      folder: where its files are written.
    """
    if source is None or not source.is_other or source.changed(*TOKENIZER):
        return
    ours = folder / "tokenizer"
    if ours.exists() or not (source.run_dir / "tokenizer").is_dir():
        return
    theirs = cloud.fetched(source.run_dir / "tokenizer")
    if not source.changed("rollout.stop"):
        shutil.copytree(theirs, ours)
    elif trained_vocab_size(config.tokenizer) is not None:
        load_tokenizer(theirs).without_stops().save(ours)
    # any other is read again from where the other run had it, without that run's `rollout.stop`


def data_start(source: Source | None, data: str, *, in_batches: bool) -> int:
    """The training step at which the order of the data begins: 0, or where another run's state met
    other data.

    Args:
      source: where the run begins.
      data: fingerprint of its data.
      in_batches: whether the order also depends on the batch size.
    """
    if source is None:
        return 0
    kept = int(source.meta.get("data_start", 0))
    if not source.is_other:
        return kept
    keys = (*ORDER, "training.batch_size") if in_batches else ORDER
    if source.meta["data"] == data and not source.changed(*keys):
        return kept
    _log.warning(
        "the data or their order differ from those of %s: the run begins with the first of them",
        source.run_dir,
    )
    return source.step


def earlier_sessions(source: Source | None) -> dict[str, int | None]:
    """What `Evaluations` is told of a run's own earlier sessions: `upto` and `planned`."""
    if source is None or source.is_other:
        return {"upto": -1, "planned": None}
    # evaluated as the last one, even if a longer run goes on from it
    last = source.meta.get("total_steps") == source.step
    return {"upto": source.step, "planned": source.step if last else None}


def check_steps(config: Config, source: Source | None, total_steps: int) -> None:
    """Refuses a number of steps that leaves nothing to do, or that is below what the run was
    planned for.

    A schedule is a function of the step and of the number of steps: where that grows, the learning
    rate goes on by the longer schedule, so a cosine that had come down rises again.
    """
    if source is None:
        return
    planned = int(source.meta.get("total_steps", source.step))
    setting = "training.max_steps" if config.training.max_steps else "training.num_epochs"
    if source.is_other and total_steps <= source.step:
        raise RunFolderError(
            f"{setting} makes {total_steps} steps in all, and step {source.step} of "
            f"{source.run_dir} is to go on: raise it "
            "(steps of the other run count)"
        )
    if not source.is_other and total_steps < planned:
        onward = start_from_command(source.run_dir)
        # that command would be refused too: steps of the other run count
        if total_steps <= source.step:
            least = max(planned, source.step + 1)
            onward = (
                f"ask for {least} steps or more, or for others in a new run_dir; {onward} and "
                f"{least} steps or more"
            )
        raise RunFolderError(
            f"{setting} makes {total_steps} steps, but the run in {source.run_dir} was planned for "
            f"{planned}: it may only grow; " + onward
        )


def log_growth(
    config: Config,
    source: Source | None,
    total_steps: int,
    *,
    count: int,
    updates: int = 1,
    warmup: int = 0,
) -> None:
    """Says what a longer run does to the learning rate.

    Args:
      config: a whole run.
      source: where it begins.
      total_steps: of the run as it is now.
      count: updates that the schedule has counted (`rlhf_jax.training.schedule_count`).
      updates: optimizer updates a step.
      warmup: updates before the schedule begins.
    """
    planned = None if source is None else source.meta.get("total_steps")
    if source is None or planned is None or planned == total_steps:
        return
    old, new = (
        float(make_schedule(config.optimizer, total_steps=total * updates - warmup)(count))
        for total in (planned, total_steps)
    )
    _log.warning(
        "%d steps instead of %d: the schedule is that of the new number, so after step %d the "
        "learning rate is %.3g, not %.3g",
        total_steps,
        planned,
        source.step,
        new,
        old,
    )


def reward_digests(config: Config) -> dict[str, str]:
    """Label -> digest of the code of a reward function that is not built in, or of the weights of a
    reward model."""
    digests = {reward.label: fingerprint([reward]) for reward in untrusted(config.rewards)}
    for reward in config.rewards:
        if reward.function == MODEL:
            folder = local_folder(model_path(reward))
            digests[reward.label] = "+".join(
                file_digest(file) for file in sorted(folder.glob("*.safetensors"))
            )
    return digests
