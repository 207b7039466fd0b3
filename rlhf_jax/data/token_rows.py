"""Token rows of a split, and how they are kept on disk."""

import hashlib
import json
import pathlib
import shutil
import tempfile
from typing import NamedTuple

import numpy as np

from rlhf_jax.data.digest import StaleError, file_digest
from rlhf_jax.data.notes import Counted

_ARRAYS = ("tokens", "trained", "offsets", "margins", "labels")


class TokenizedSet(NamedTuple):
    """Token rows of a split, end to end: one an example (text), or two (chosen and rejected, or an
    answer and an unrelated one)."""

    tokens: np.ndarray
    """int32 [sum of lengths]"""
    trained: np.ndarray
    """bool, like `tokens`."""
    offsets: np.ndarray
    """int64 [rows + 1]: row r is `tokens[offsets[r]:offsets[r + 1]]`."""
    margins: np.ndarray
    """float32 [examples], NaN where none was given."""
    labels: np.ndarray
    """bool [examples]: the answer is desirable; False where rows have no label."""
    skipped: dict[str, int]
    """Examples left out, by reason: bad rows and those that do not fit."""
    shortened: int
    """Examples cut to the length limits."""
    notes: dict[str, Counted] = {}
    """What the user should know about the rows, by kind (`rlhf_jax.data.notes`)."""
    unrolled: tuple[int, int] = (0, 0)
    """(conversations, rows): those that the chat template does not keep as they were, and what they
    became. Each of the rows is a document of its own to losses that average over documents, as it
    is to the model."""


def write_rows(folder: pathlib.Path, result: TokenizedSet) -> None:
    """Writes beside the final place, then renames: a reader sees all or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        _fill(temporary, result)
        temporary.rename(folder)
    except OSError:
        shutil.rmtree(temporary)
        if not folder.is_dir():  # another process was not first
            raise


def _fill(temporary: pathlib.Path, result: TokenizedSet) -> None:
    for name in _ARRAYS:
        np.save(temporary / f"{name}.npy", result._asdict()[name])
    meta = {
        "skipped": result.skipped,
        "shortened": result.shortened,
        "notes": result.notes,
        "unrolled": result.unrolled,
        "digests": {name: file_digest(temporary / f"{name}.npy") for name in _ARRAYS},
    }
    meta["digest"] = _digest(meta)
    (temporary / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def read_rows(folder: pathlib.Path) -> TokenizedSet:
    """The rows that `write_rows` wrote.

    Raises:
        StaleError: a bit of them differs, or an earlier version wrote them.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta.pop("digest") != _digest(meta):
            raise StaleError("the digest of meta.json differs")
        for name in _ARRAYS:
            if file_digest(folder / f"{name}.npy") != meta["digests"][name]:
                raise StaleError(f"the digest of {name}.npy differs")
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        notes = {kind: Counted(*counted) for kind, counted in meta["notes"].items()}
        conversations, rows = meta["unrolled"]
        return TokenizedSet(
            **arrays,
            skipped=meta["skipped"],
            shortened=meta["shortened"],
            notes=notes,
            unrolled=(conversations, rows),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise StaleError(" ".join(str(error).split()) or type(error).__name__) from error


def _digest(meta: dict) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
