"""Room on the disk: how much there is, and errors that name the file which found none."""

import contextlib
import errno
import os
import pathlib
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
            return f"{count:.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is of a disk without room."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if "No space left on device" in str(error) or "Disk quota exceeded" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Puts the path into an `OSError` that names none: a full disk is noticed when writing, which does not know the name."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
        raise OSError(error.errno or errno.EIO, reason, str(path)) from error
