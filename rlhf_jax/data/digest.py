"""Arrays on disk with a digest beside them: what cannot be read, or differs, is made anew."""

import hashlib
import os
import pathlib

import numpy as np

SUFFIX = ".sha256"


class StaleError(ValueError):
    """Kept arrays that are not what was written, and why."""


def file_digest(path: pathlib.Path) -> str:
    """SHA-256 of a file, in hexadecimal digits; the file need not fit in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def keep_array(path: pathlib.Path, array: np.ndarray) -> None:
    """Writes an array, and its digest beside it. A reader between the two makes the array anew.

    Args:
        path: file name in `.npy`; its folder is made if needed.
        array: any array without objects.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.npy")
    np.save(temporary, array)
    digest = file_digest(temporary)
    os.replace(temporary, path)
    beside = path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")
    beside.write_text(digest + "\n", encoding="utf-8")
    os.replace(beside, path.with_name(path.name + SUFFIX))


def kept_array(path: pathlib.Path) -> np.ndarray | None:
    """The array that `keep_array` wrote; None when there is none.

    Raises:
        StaleError: it cannot be read, or is not what was written.
    """
    if not path.is_file():
        return None
    try:
        expected = path.with_name(path.name + SUFFIX).read_text(encoding="utf-8").strip()
        if file_digest(path) != expected:
            raise StaleError("its digest differs")
        return np.load(path)
    except StaleError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise StaleError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
