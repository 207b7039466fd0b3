"""`train(config)`: a whole run, from configuration to an exported model."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf_jax.cloud import Place
from rlhf_jax.config import Config
from rlhf_jax.handed import handing
from rlhf_jax.io import RunFolder
from rlhf_jax.loops.grading import Grader
from rlhf_jax.loops.recorder import Callback
from rlhf_jax.models import ModelConfig
from rlhf_jax.rollout import Sampler
from rlhf_jax.runs.arguments import settle
from rlhf_jax.runs.compilation import keep_programs
from rlhf_jax.runs.export import export_model
from rlhf_jax.runs.footprint import is_small
from rlhf_jax.runs.load import LoadedModel
from rlhf_jax.runs.offline import Finished, run_offline
from rlhf_jax.runs.online import run_online
from rlhf_jax.runs.online_parts import MakeGrader, MakeSampler
from rlhf_jax.runs.plan.microbatches import settled
from rlhf_jax.runs.result import RunResult
from rlhf_jax.runs.session import open_session
from rlhf_jax.runs.trees import Given
from rlhf_jax.runs.tried import try_own
from rlhf_jax.sharding.processes import count, ending_together, join
from rlhf_jax.training.allocator import retain_freed_memory

_log = logging.getLogger(__name__)


def train(
    config: Config | Mapping[str, Any] | str | os.PathLike[str],
    *,
    data: Any = None,
    eval_data: Any = None,
    rewards: Sequence[Any] | None = None,
    model: Given | LoadedModel | str | os.PathLike[str] | None = None,
    tokenizer: Any = None,
    sampler: Sampler | MakeSampler | None = None,
    grader: Grader | MakeGrader | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
) -> RunResult:
    """Trains as configured: SFT, reward model, DPO, PPO, GRPO, DAPO, or an algorithm of one's own.

    The run folder holds `config.yaml` (resolved), `sessions.json` (what each session ran on, and
    how it ended), `metrics.jsonl`, `log.txt`, `tensorboard/`, `checkpoints/`, online also
    `completions/`, and at the end `export/`, a folder that transformers loads (and one per further
    trained tree, such as PPO's `critic/`). A run that was interrupted or killed goes on from its
    last checkpoint with the same bits as if it had not been (`checkpoint.resume`).

    Args:
      config: a whole run: a nested dict of what differs from the defaults, the path of a YAML file,
        or a `Config`. Without `run_dir` the run is in a temporary folder (the log says which),
        which is deleted when the program ends.
      data: rows to train on in place of `data.path`: dicts, one a row, or a `datasets.Dataset`.
        They are fingerprinted like a file: the same rows resume, others are refused.
      eval_data: held-out rows, in place of all that the configuration says of them.
      rewards: in place of the configuration's: functions with TRL's contract (defined anywhere:
        lambdas and closures too), names of built-in ones, or ``{"function": f, "weight": 0.5}``
        with the keys of `RewardConfig`. Functions are called in this process, without sandbox and
        time limit. `config.yaml` says ``<callable NAME>``: to resume, give them again.
      model: a folder or hub id; what `load` returns; or (functions, parameters) of one's own, whose
        `config` needs `vocab_size` and `max_position`. In place of `model.path`. Parameters whose
        names no sharding rule knows are kept whole by ``mesh.replicate=[".*"]``. Functions that are
        not the library's are not exported; their checkpoints are read by
        `Checkpointer.restore_params`.
      tokenizer: what `load_tokenizer` returns, or a tokenizer of transformers; or as `tokenizer` in
        the configuration.
      sampler: one of one's own (`rollout.Sampler`); or a function (built-in sampler, tokenizer) ->
        sampler, such as one that calls `with_environment`.
      grader: one of one's own (`loops.grading.Grader`); or a function of the built-in one.
      callbacks: called as (step, metrics) after every step; one that returns True ends the run as
        after its last step.
      progress: show a live display; None: when standard error is a terminal, and lines elsewhere,
        as in a notebook; False: warnings alone. A program that has set up logging itself, for the
        root logger or for "rlhf_jax", decides what becomes of the lines.

    A run of several processes (`distributed`) is this same call in each of them. It must come
    before anything that touches a device; they stay together until the program ends.

    Returns:
      A `RunResult`, the same in every process.

    Raises:
      LostError: another process of the run ended, hangs, or did not start.
      PeerError: what failed in another process.
      ValueError: the configuration, the data or the model cannot be used; one line says why.
      CheckpointError: a checkpoint is damaged or could not be written; one line names a whole one.
      TrainingError: the loss stays non-finite, or no prompt has right and wrong answers to learn
        from.
    """
    # What a scheduler counts has begun: the other processes may start later.
    began = time.monotonic()
    given = settle(
        config,
        data=data,
        eval_data=eval_data,
        rewards=rewards,
        model=model,
        tokenizer=tokenizer,
    )
    config = given.config
    if not config.is_online and (sampler is not None or grader is not None):
        raise ValueError("a sampler or grader was given, but the algorithm samples no completions")
    join(config.distributed)
    if given.is_temporary and count() > 1:
        raise ValueError("run_dir is not given: several processes need one that all of them see")
    try_own(config)
    if is_small(config):
        retain_freed_memory()
    with (
        handing(given.objects),
        ending_together(),
        open_session(config, began=began, progress=progress, callbacks=callbacks) as session,
        keep_programs(config.training.compilation_cache, busy=session.folder.busy),
    ):
        session = session._replace(config=settled(session.config))
        if config.is_online:
            finished = run_online(session, given=given.model, sampler=sampler, grader=grader)
        else:
            finished = run_offline(session, given=given.model)
        exported = None
        if not finished.was_interrupted:
            dtype = config.checkpoint.export_dtype
            exported = export_trees(session.folder, finished, dtype=dtype)
        session.ended(interrupted=finished.was_interrupted)
    with ending_together():
        metrics = session.folder.last_metrics()
    return RunResult(
        run_dir=session.folder.address,
        steps=finished.now.step,
        metrics=metrics,
        interrupted=finished.was_interrupted,
        asked_to_stop=finished.was_asked,
        export_dir=exported,
    )


def export_trees(
    folder: RunFolder, finished: Finished, *, dtype: str | None = None
) -> Place | None:
    """Every trained tree as a Hugging Face folder: the policy in `export/`, others by role."""
    if not isinstance(finished.model.config, ModelConfig):
        _log.info("the model is one of your own: there is no export, checkpoints hold its weights")
        return None
    with exporting(folder, finished.now.step):
        for role, tree in finished.now.train.params.items():
            name = "export" if role == "policy" else role
            model = finished.model.role(role)
            export_model(folder.path / name, model, tree, finished.tokenizer, dtype=dtype)
    return folder.address / "export"


@contextlib.contextmanager
def exporting(folder: RunFolder, step: int) -> Iterator[None]:
    """Says of an export that fails (the disk is full) that nothing is lost."""
    try:
        yield
    except OSError as error:
        saved = f"the checkpoint of step {step} is whole, and the same command exports again"
        raise OSError(
            error.errno,
            f"{error.strerror} ({saved})",
            error.filename or str(folder.path / "export"),
        ) from error
