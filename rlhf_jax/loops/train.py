"""`train(config)`: a whole run, from configuration to an exported model."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from rlhf_jax.config import Config
from rlhf_jax.io import Checkpointer, RunFolder
from rlhf_jax.loops.export import export_model
from rlhf_jax.loops.interrupt import ending_in_order
from rlhf_jax.loops.offline import train_offline
from rlhf_jax.loops.online import train_online
from rlhf_jax.loops.online_setup import OnlineSetup, make_online_setup
from rlhf_jax.loops.resume import Source, find_source, take_tokenizer
from rlhf_jax.loops.setup import Setup, make_setup
from rlhf_jax.loops.space import check_space
from rlhf_jax.training.allocator import retain_freed_memory


class RunResult(NamedTuple):
    """What a run left behind."""

    run_dir: pathlib.Path
    steps: int
    """Training steps made, those of earlier sessions included."""
    metrics: dict[str, float]
    """The last evaluation, and the last training metrics under the prefix "train/"."""
    interrupted: bool
    """A signal ended the run; starting it again goes on from here."""
    export_dir: pathlib.Path | None
    """Hugging Face folder with the final weights; None when interrupted."""


def train(config: Config, *, progress: bool | None = None) -> RunResult:
    """Trains as configured: SFT, reward model, DPO, PPO, GRPO or DAPO.

    The run folder holds `config.yaml` (resolved), `metrics.jsonl`, `log.txt`, `tensorboard/`,
    `checkpoints/`, online also `completions/`, and at the end `export/`, a folder that transformers
    loads (and of PPO `critic/`). A run that was interrupted or killed goes on from its last
    checkpoint with the same bits as if it had not been (`checkpoint.resume`).

    Args:
      config: a whole run (`load_config` or built in Python).
      progress: show a live display; None: when standard error is a terminal.

    Returns:
      A `RunResult`.

    Raises:
      ValueError: the configuration, the data or the model cannot be used; one line says why.
      CheckpointError: a checkpoint is damaged or could not be written; one line names a whole one.
      TrainingError: the loss stays non-finite, or no prompt has right and wrong answers to learn
        from.
    """
    retain_freed_memory()
    run_dir = pathlib.Path(config.run_dir)
    with Checkpointer(
        run_dir / "checkpoints",
        keep_last=config.checkpoint.keep_last,
        keep_best=config.checkpoint.keep_best,
        best_metric=config.checkpoint.best_metric,
        best_mode=config.checkpoint.mode,
    ) as checkpointer:
        resume = checkpointer.latest_step()
        with ending_in_order(), RunFolder(config, resume_step=resume, progress=progress) as folder:
            source = find_source(config, checkpointer, resume)
            take_tokenizer(config, source)
            run = _run_online if config.is_online else _run_offline
            steps, interrupted = run(config, folder, checkpointer, source)
    return RunResult(
        run_dir,
        steps,
        folder.last_metrics(),
        interrupted,
        None if interrupted else run_dir / "export",
    )


def _run_offline(
    config: Config, folder: RunFolder, checkpointer: Checkpointer, source: Source | None
) -> tuple[int, bool]:
    setup = make_setup(config, source=source)
    _check_room(setup, source)
    state, interrupted = train_offline(
        setup, folder=folder, checkpointer=checkpointer, source=source
    )
    if not interrupted:
        with _exporting(folder, int(state.step)):
            export_model(folder.path / "export", setup.model, state.params, setup.tokenizer)
    return int(state.step), interrupted


def _run_online(
    config: Config, folder: RunFolder, checkpointer: Checkpointer, source: Source | None
) -> tuple[int, bool]:
    setup = make_online_setup(config, source=source)
    _check_room(setup, source)
    now, interrupted = train_online(setup, folder=folder, checkpointer=checkpointer, source=source)
    if not interrupted:
        with _exporting(folder, now.step):
            export_model(
                folder.path / "export",
                setup.policy,
                setup.policy_params(now.state.params),
                setup.tokenizer,
            )
            if setup.critic is not None:
                export_model(
                    folder.path / "critic",
                    setup.critic,
                    now.state.params["critic"],
                    setup.tokenizer,
                )
    return now.step, interrupted


def _check_room(setup: Setup | OnlineSetup, source: Source | None) -> None:
    step = 0 if source is None else source.step
    check_space(setup.config, setup.params, setup.tx, step=step, total_steps=setup.total_steps)


@contextlib.contextmanager
def _exporting(folder: RunFolder, step: int) -> Iterator[None]:
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
