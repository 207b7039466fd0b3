"""The files of a run as they lie in a bucket: brought here at the start, brought there as they
change.

Files, not writes, are copied: an object in a bucket is there whole or not at all, and cannot be
added to. What has not changed since the last copy is left alone, by its size and time.
"""

import functools
import os
import pathlib
import shutil
import stat
from collections.abc import Collection

from rlhf_jax import cloud
from rlhf_jax.cloud import Place

TEMPORARY = ".tmp"
"""Ending of names under which files are being written."""


class Mirror:
    """A folder of the file system, and the folder in a bucket that holds the same.

    Args:
      local: what is written to; it exists.
      remote: of a bucket, or any path that `cloud.place` gives.
    """

    def __init__(self, local: pathlib.Path, remote: Place) -> None:
        self.local = local
        self.remote = remote
        self._known: dict[str, tuple[int, int]] = {}

    def names(self) -> set[str]:
        """What lies at the top of the folder in the bucket; nothing where there is none.

        Raises:
          CloudError: it cannot be read.
        """

        def look() -> set[str]:
            try:
                return {child.name for child in self.remote.iterdir() if child.name}
            except FileNotFoundError:
                return set()

        return cloud.patiently(f"{self.remote} cannot be read", look)

    def bring(self, names: Collection[str]) -> None:
        """Copies files and folders from the bucket, where there are any of these names.

        Raises:
          CloudError: one cannot be read.
        """
        there = self.names()
        files: list[str] = []
        for name in sorted(there & set(names)):
            source = self.remote / name
            shown = f"{source} cannot be read"
            if cloud.patiently(shown, source.is_dir):
                below = cloud.patiently(shown, functools.partial(cloud.files_below, source))
                files += [f"{name}/{file}" for file in below]
            else:
                files.append(name)
        cloud.together([functools.partial(self._bring, file) for file in files])

    def _bring(self, name: str) -> None:
        cloud.fetch_file(self.remote / name, self.local / name)
        self._known[name] = _stamp(self.local / name)

    def publish(self) -> None:
        """Copies to the bucket what has changed here, and removes there what was removed here.

        Raises:
          CloudError: one cannot be written.
        """
        here = {
            name: _stamp(self.local / name)
            for name in cloud.files_below(self.local)
            if not name.endswith(TEMPORARY)
        }
        changed = [name for name in here if self._known.get(name) != here[name]]
        cloud.together([functools.partial(self._send, name, here[name]) for name in changed])
        for name in self._known.keys() - here.keys():
            self._delete(name)

    def _send(self, name: str, stamp: tuple[int, int]) -> None:
        target = self.remote / name
        cloud.patiently(
            f"{target} cannot be written",
            lambda: _send_file(self.local / name, target),
        )
        self._known[name] = stamp

    def _delete(self, name: str) -> None:
        target = self.remote / name
        cloud.patiently(f"{target} cannot be removed", lambda: target.unlink(missing_ok=True))
        del self._known[name]

    def clear(self, names: Collection[str]) -> None:
        """Removes files and folders in the bucket and here.

        Raises:
          CloudError: one cannot be removed.
        """
        for name in sorted(self.names() & set(names)):
            target = self.remote / name
            cloud.patiently(
                f"{target} cannot be removed", functools.partial(target.rmtree, missing_ok=True)
            )
        for name in names:
            shutil.rmtree(self.local / name, ignore_errors=True)
            self._known = {
                file: stamp
                for file, stamp in self._known.items()
                if file != name and not file.startswith(f"{name}/")
            }


def _send_file(source: pathlib.Path, target: Place) -> None:
    # On a disk that stands for a bucket, in tests, folders must be made.
    if not cloud.is_address(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    cloud.copy_file(source, target)


def _stamp(file: pathlib.Path) -> tuple[int, int]:
    found = os.stat(file)
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (0, 0)
