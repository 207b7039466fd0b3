"""Whether a folder is the same one for all processes of a run."""

import pathlib
import secrets
import time

from rlhf_jax.io.errors import RunFolderError
from rlhf_jax.sharding.processes import count, from_leader, gathered, is_leader, number

_SEEN_SECONDS = 75.0
"""Other hosts may remember for a minute, as NFS does, that there was no such folder."""


def check_shared(folder: pathlib.Path, name: str) -> None:
    """Refuses a folder that is another one on the host of some process: each would keep its part of
    the checkpoints there, and none would be whole. All processes must call it.

    Args:
      folder: which the leader has made.
      name: of a file in it whose contents mean nothing.

    Raises:
      RunFolderError: or `PeerError` where it is another process that does not see it.
    """
    if count() == 1:
        return
    file = folder / name

    def mark() -> str:
        word = secrets.token_hex(16)
        file.write_text(word, encoding="utf-8")
        return word

    word = from_leader("mark run folder", mark)
    gathered("see run folder", lambda: is_leader() or _await(file, word))


def _await(file: pathlib.Path, word: str) -> bool:
    until = time.monotonic() + _SEEN_SECONDS
    while not (file.is_file() and file.read_text(encoding="utf-8") == word):
        if time.monotonic() > until:
            raise RunFolderError(
                f"run_dir={file.parent} of process 0 is not seen by process {number()}: give a "
                "folder that all hosts share"
            )
        time.sleep(0.2)
    return True
