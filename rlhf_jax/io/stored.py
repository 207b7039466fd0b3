"""One checkpoint on disk, read item by item and compared with the digests of its saving.

`StoredStep` reads the items of one checkpoint and checks each against its digest; `or_whole` runs
such a reading and, where it fails by damage, looks for a checkpoint that is whole and names it.
Below are what they share: names of leaves, comparison of layouts (`check_fits`), and orbax's errors
in one line (`reading`, `reason`).
"""

import contextlib
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import orbax.checkpoint as ocp

from rlhf_jax import cloud
from rlhf_jax.cloud import Place
from rlhf_jax.io.disk import describe_bytes, free_bytes, is_disk_full
from rlhf_jax.io.errors import CheckpointError, UnreadableError
from rlhf_jax.io.fingerprint import fingerprints, layout_fingerprint, tree_leaves
from rlhf_jax.io.s3_arrays import RestoreTree, SaveTree
from rlhf_jax.io.seal import DamagedError, Meta, unseal
from rlhf_jax.sharding.processes import count

_log = logging.getLogger(__name__)
ReadT = TypeVar("ReadT")
ARRAYS = ("params", "rest")
"""Items that hold arrays."""
COMMITTED = "commit_success.txt"
"""Orbax's last file of a checkpoint in a bucket."""


class StoredStep:
    """A complete checkpoint, read by orbax's manager; whatever is wrong with its files is one line.

    Args:
        manager: orbax's, of the folder that holds the checkpoint.
        folder: of this step.
    """

    def __init__(self, manager: ocp.CheckpointManager, folder: Place):
        self.manager = manager
        self.folder = folder
        self.step = int(folder.name)

    def meta(self) -> Meta:
        """What was saved beside the arrays.

        Raises:
            UnreadableError: it is not what was written.
        """
        with reading(self.folder / "meta"):
            items = ocp.args.Composite(meta=ocp.args.JsonRestore())
            meta = unseal(self.manager.restore(self.step, args=items).meta)
        if not meta.fingerprints:
            _log.info(
                "%s was saved by an earlier version, without digests of its values", self.folder
            )
        return meta

    def layouts(self, meta: Meta) -> dict[str, Any]:
        """Item -> tree of shapes and dtypes.

        Raises:
            UnreadableError: they are not those that were saved.
        """
        with reading(self.folder):
            stored = self.manager.item_metadata(self.step)
            trees = {name: tree_of(stored[name]) for name in ARRAYS}
        for name, tree in trees.items():
            with reading(self.folder / name):
                if meta.layouts and layout_fingerprint(tree) != meta.layouts[name]:
                    raise DamagedError("its names, shapes or dtypes are not those that were saved")
        return trees

    def arrays(
        self, wanted: Mapping[str, Any], meta: Meta, *, passed_over: Collection[str] = ()
    ) -> dict[str, Any]:
        """Whole items, onto the shardings that are wanted.

        Args:
            wanted: item -> tree with the shapes and dtypes that are stored.
            meta: of this checkpoint.
            passed_over: fields of `rest` that are not compared, because nobody uses them.

        Raises:
            UnreadableError: a value is not the one that was saved.
        """
        found = {}
        for name, tree in wanted.items():
            with reading(self.folder / name):
                items = ocp.args.Composite(**{name: restore_args(self.folder, _abstract(tree))})
                found[name] = self.manager.restore(self.step, args=items)[name]
                used = {
                    key: part
                    for key, part in fields(name, found[name]).items()
                    if field_of(key) not in passed_over
                }
                targets = fields(name, tree)
                for key, part in used.items():
                    if sum(map(is_key, jax.tree.leaves(part))) < sum(
                        map(is_key, jax.tree.leaves(targets[key]))
                    ):
                        raise DamagedError(
                            f"{field_of(key)} is read as plain words, and was a random key"
                        )
                for key, digest in fingerprints(used).items() if meta.fingerprints else ():
                    if digest != meta.fingerprints[key]:
                        raise DamagedError(
                            f"the values of {field_of(key)} are not those that were saved"
                        )
        return found

    def verify(self) -> None:
        """Reads everything once, on the host, and compares it.

        Raises:
            UnreadableError: the checkpoint is not whole.
        """
        meta = self.meta()
        for name, tree in self.layouts(meta).items():
            host = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
            self.arrays({name: host}, meta)


class Parts(NamedTuple):
    """A state that was taken as far as it fits."""

    fields: dict[str, Any]
    """The fields that fit, `params` among them."""
    unfit: dict[str, str]
    """Those that do not: field -> the first difference."""
    meta: dict[str, Any]


def or_whole(stored: StoredStep, read: Callable[[StoredStep], ReadT]) -> ReadT:
    """Reads a checkpoint; when it is damaged, the error says which other one is whole. Of several
    processes perhaps only one has met the damage, and none can read alone: there the error says
    which others there are.

    Raises:
        CheckpointError: whatever `read` raises, damage with how to go on.
    """
    try:
        return read(stored)
    except UnreadableError as error:
        damage = error
    directory = stored.folder.parent
    run = directory.parent
    export = (
        f"; the exported model is in {run / 'export'}"
        if (run / "export" / "config.json").is_file()
        else ""
    )
    others = [step for step in complete_steps(directory) if step != stored.step]
    if count() > 1 and others:
        raise CheckpointError(
            f"{damage}; there are checkpoints of steps {', '.join(map(str, others))}: remove "
            f"{stored.folder} to go on from step {others[-1]}, which is then compared with what "
            f"was saved{export}"
        ) from damage.__cause__
    for other in reversed(others):
        try:
            StoredStep(stored.manager, directory / str(other)).verify()
        except CheckpointError:
            continue
        raise CheckpointError(
            f"{damage}; the checkpoint of step {other} is whole: remove {stored.folder} to go on "
            f"from it, or start from it in a new run_dir with checkpoint.start_from={run}@{other} "
            f"(evaluate and export take --step {other}){export}"
        ) from damage.__cause__
    raise CheckpointError(
        f"{damage}; no other checkpoint is whole: start again in a new run_dir{export}"
    ) from damage.__cause__


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed PRNG key."""
    return bool(jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def fields(item: str, tree: Any) -> dict[str, Any]:
    """The parts of an item that have digests of their own: `params`, and each field of `rest`."""
    return (
        {item: tree}
        if item == "params"
        else {f"{item}/{name}": value for name, value in tree.items()}
    )


def field_of(key: str) -> str:
    """The field of the state whose digest stands under a key."""
    return key.rpartition("/")[2]


def stored_metrics(folder: Place) -> dict[str, float]:
    """What a checkpoint is ranked by; empty when it was not evaluated.

    Raises:
        UnreadableError: it is not what was written.
    """
    path = folder / "metrics" / "metrics"
    with reading(path):
        metrics = json.loads(path.read_bytes()) if path.exists() else {}
    with reading(folder / "meta"):
        sealed = unseal(json.loads((folder / "meta" / "metadata").read_bytes()))
    if sealed.fingerprints and (sealed.metrics or {}) != metrics:
        raise UnreadableError(f"{path} is damaged: its contents are not those that were written")
    return metrics


def check_metrics(directory: Place) -> None:
    """Reads what checkpoints are ranked by: orbax's own error only tells of a missing comma.

    Raises:
        UnreadableError: of the first that is damaged, with how to go on.
    """
    steps = complete_steps(directory)
    for step in steps:
        try:
            stored_metrics(directory / str(step))
        except UnreadableError as error:
            others = ", ".join(str(other) for other in steps if other != step) or "none"
            raise UnreadableError(
                f"{error}; remove {directory / str(step)} to go on with the other checkpoints (of "
                f"steps: {others})"
            ) from error


def save_error(directory: Place, step: int | None, error: Exception) -> CheckpointError:
    """A save that failed, in one line: which, why, what is left, and what to do."""
    steps = [other for other in complete_steps(directory) if other != step]
    left = f"the checkpoint of step {steps[-1]} is whole" if steps else "there is no checkpoint yet"
    room = f" ({describe_bytes(free_bytes(directory))} free)" if is_disk_full(error) else ""
    return CheckpointError(
        f"{directory / str(step)} could not be saved: {reason(error)}{room}; {left}: "
        "mend the cause and start the same command again"
    )


def complete_steps(directory: Place) -> list[int]:
    """Steps with a complete checkpoint, ascending; their contents are not looked at."""
    if not directory.is_dir():
        return []
    return sorted(
        int(child.name)
        for child in directory.iterdir()
        if child.name.isdigit() and is_complete(child)
    )


def is_s3(directory: Place) -> bool:
    """Whether a folder lies in S3, whose arrays orbax leaves to `s3_arrays`."""
    return str(directory).startswith("s3://")


def save_args(directory: Place, tree: Any) -> Any:
    """How orbax is told to save arrays there."""
    return SaveTree(tree) if is_s3(directory) else ocp.args.StandardSave(tree)


def restore_args(directory: Place, tree: Any) -> Any:
    """How orbax is told to read arrays there, onto the shapes and shardings of a tree."""
    return RestoreTree(tree) if is_s3(directory) else ocp.args.StandardRestore(tree)


def is_complete(folder: Place) -> bool:
    """Whether a checkpoint was saved to its end. On a disk a folder gets its name then; in a
    bucket, where nothing can be renamed at once, a last file tells."""
    if cloud.is_bucket(folder):
        return bool((folder / COMMITTED).exists())
    return bool(folder.is_dir())


@contextlib.contextmanager
def reading(path: Place) -> Iterator[None]:
    """Turns whatever orbax and below raise about damaged or missing files into one line."""
    try:
        yield
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # orbax, tensorstore and json have many
        # no memory on the device: nothing is wrong with the files
        if "RESOURCE_EXHAUSTED" in str(error):
            raise
        verb = "is damaged" if isinstance(error, DamagedError) else "cannot be read"
        raise UnreadableError(f"{_culprit(path)} {verb}: {reason(error)}") from error


def _culprit(path: Place) -> Place:
    """The first file of orbax's descriptions below a folder that is no JSON, else the folder."""
    names = ("_CHECKPOINT_METADATA", "_METADATA", "_sharding", "metadata", "metrics")
    try:
        files = [path / name for name in cloud.files_below(path)]
    except Exception:  # the bucket itself cannot be read, which is said already
        return path
    for file in files:
        is_array = file.parent.name == "array_metadatas" and file.name.startswith("process_")
        if is_array or file.name in names:
            try:
                json.loads(file.read_bytes())
            except (ValueError, OSError):
                return file
    return path


def reason(error: Exception) -> str:
    """The beginning of an error, in one line; of a full disk the system's words."""
    if is_disk_full(error):
        return "No space left on device"
    text = " ".join(str(error).split())
    if isinstance(error, DamagedError):
        return text
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__


def tree_of(stored: Any) -> Any:
    """The tree of shapes and dtypes in orbax's metadata of an item."""
    return stored.tree if hasattr(stored, "tree") else stored


def leaf_name(path: Any) -> str:
    """`embed/embedding`, whatever holds it."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _abstract(tree: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree
    )


def check_fits(folder: Place, prefix: str, wanted: Any, stored: Any, *, dtypes: bool) -> None:
    """Compare names, shapes, dtypes before orbax does: its errors are long, of several threads."""
    want = dict(tree_leaves(prefix, wanted))
    have = dict(tree_leaves(prefix, stored))
    for name in want.keys() - have.keys():
        raise CheckpointError(
            f"{folder}: {name} is not in the checkpoint: it was saved from another model or "
            "optimizer"
        )
    for name in have.keys() - want.keys():
        raise CheckpointError(
            f"{folder}: {name} is in the checkpoint but not wanted: it was saved from another "
            "model or optimizer"
        )
    for name, leaf in want.items():
        if leaf.shape != have[name].shape:
            raise CheckpointError(
                f"{folder}: {name} has shape {have[name].shape} in the checkpoint, but "
                f"{leaf.shape} is wanted"
            )
        if dtypes and leaf.dtype != have[name].dtype:
            raise CheckpointError(
                f"{folder}: {name} is {have[name].dtype} in the checkpoint, but {leaf.dtype} is "
                "wanted"
            )
