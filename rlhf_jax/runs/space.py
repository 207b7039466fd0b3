"""Whether what a run keeps will fit on the disk, told before the first step."""

import logging
import math
import tempfile

import jax
import optax

from rlhf_jax import cloud
from rlhf_jax.config import Config
from rlhf_jax.io import RunFolderError
from rlhf_jax.io.disk import describe_bytes, free_bytes
from rlhf_jax.io.stored import complete_steps
from rlhf_jax.runs.footprint import tree_bytes
from rlhf_jax.sharding.processes import from_leader
from rlhf_jax.types import Trees

_log = logging.getLogger(__name__)


def check_space(
    config: Config, trees: Trees, tx: optax.GradientTransformation, *, step: int, total_steps: int
) -> None:
    """Compares the bytes of the checkpoints that are to be kept, and of the export, with the room
    that is left.

    Arrays are counted as they lie in memory; on disk they are compressed, by little when they are
    trained weights.

    Args:
      config: a whole run.
      trees: what is trained.
      tx: its optimizer.
      step: where this session begins.
      total_steps: where the run ends.

    Raises:
      RunFolderError: not even one checkpoint fits.
    """
    if step >= total_steps:
        return
    run_dir = cloud.place(config.run_dir, "run_dir")
    section = config.checkpoint
    keep = section.keep_last + section.keep_best
    if section.keep_every is not None:
        keep += total_steps // section.keep_every
    exports = 1
    if section.export_every is not None:
        exports += total_steps // section.export_every - step // section.export_every
    export = tree_bytes(trees)
    checkpoint = export + tree_bytes(jax.eval_shape(tx.init, trees))
    every = config.training.save_every
    saves = math.ceil((total_steps - step) / every) if every else 1
    # A new one is complete before the oldest is removed.
    there, exported = from_leader(
        "what is stored",
        lambda: (len(complete_steps(run_dir / "checkpoints")), (run_dir / "export").is_dir()),
    )
    further = max(1, min(saves, keep + 1 - there))
    still = further * checkpoint + (exports - exported) * export
    if cloud.is_bucket(run_dir):
        _check_temporary(checkpoint, export, keep=keep)
        return
    free = from_leader("free bytes", lambda: free_bytes(run_dir))
    sizes = (
        f"a checkpoint is {describe_bytes(checkpoint)}, {keep} are kept (one more while saving), "
        f"{'the export' if exports == 1 else f'each of {exports} exports'} is "
        f"{describe_bytes(export)}, {describe_bytes(free)} free"
    )
    mend = (
        f"make room in {run_dir}, choose a run_dir on another disk, or a lower "
        "checkpoint.keep_last, keep_best or a larger keep_every or export_every"
    )
    if free < checkpoint:
        raise RunFolderError(f"not even one checkpoint fits: {sizes}; {mend}")
    if free < still:
        _log.warning("the disk will be full before the run ends: %s; %s", sizes, mend)
    else:
        _log.info("%s", sizes)


def _check_temporary(checkpoint: int, export: int, *, keep: int) -> None:
    """A bucket has room; the export is written to the working folder first."""
    folder = tempfile.gettempdir()
    free = from_leader("free bytes", lambda: free_bytes(folder))
    _log.info(
        "a checkpoint is %s, %d are kept in the bucket; the export is %s and is written to %s "
        "first, which has %s free",
        describe_bytes(checkpoint),
        keep,
        describe_bytes(export),
        folder,
        describe_bytes(free),
    )
    if free < export:
        raise RunFolderError(
            f"the export of {describe_bytes(export)} does not fit into {folder} with "
            f"{describe_bytes(free)} free, where it is written before it goes to the bucket: set "
            "TMPDIR to a folder with room"
        )
