"""Room on the disk: how much there is, and errors that name the file which found none."""

import contextlib
import errno
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space left, a user's quota used up, a limit on the size of files."""


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes that may still be written where a path is, or is to be made."""
    place = pathlib.Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def describe_bytes(count: float) -> str:
    """`84 GB`, `1.5 MB`: two digits and a decimal unit."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return (
                f"{count:.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
            )
        count /= 1000
    return f"{count:.1f} TB"


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is of a disk without room."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if _system_number(error) in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Puts the path into an `OSError` that names none: writing to a full disk knows no name.

    The same for what libraries in Rust make of the system's errors.
    """
    try:
        yield
    except Exception as error:
        number = _system_number(error)
        if number is None or (isinstance(error, OSError) and error.filename is not None):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def write_whole(path: pathlib.Path, text: str) -> None:
    """A file appears under its name only when it is complete, whoever else writes it.

    Raises:
      OSError: it names the file.
    """
    fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with naming(path):
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, path)


def _system_number(error: BaseException) -> int | None:
    """The system's number of an error, also where only its words are left; None: another kind."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    if (found := re.search(r"\(os error (\d+)\)", text)) is not None:  # Rust
        return int(found[1])
    # C++; NumPy
    if "No space left on device" in text or re.search(r"\d+ requested and \d+ written", text):
        return errno.ENOSPC
    if "Disk quota exceeded" in text:
        return errno.EDQUOT
    return errno.EIO if isinstance(error, OSError) else None
