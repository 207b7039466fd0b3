"""One run at a time in a folder of a bucket, which knows no locks.

Whoever trains in the folder writes its name and a growing number into an object, every `BEAT`
seconds, and removes the object at the end. A process that finds the object watches it: when it does
not change for `STALE` seconds, its writer was killed and the folder is free. Clocks are not
compared. Of two that begin within `SETTLE` seconds the one that wrote last stays.
"""

import json
import logging
import os
import secrets
import socket
import threading
import time
from typing import Any

from rlhf_jax import cloud
from rlhf_jax.cloud import Place
from rlhf_jax.io.errors import RunFolderError

_log = logging.getLogger(__name__)
BEAT = 10.0
STALE = 45.0
SETTLE = 2.0


class BucketLock:
    """The lock of a folder, taken by the process that writes there.

    Args:
      file: the object.
    """

    def __init__(self, file: Place) -> None:
        self._file = file
        self.word = secrets.token_hex(16)
        """What tells this lock from those of other runs."""
        self._beat = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._taken_by: str | None = None

    def take(self) -> None:
        """Takes the folder.

        Raises:
          RunFolderError: another process trains in it.
          CloudError: the bucket cannot be read or written.
        """
        self._wait_for_others()
        self._write()
        time.sleep(SETTLE)
        found = self._read()
        if found is None or found["word"] != self.word:
            raise RunFolderError(self._in_use(found))
        self._thread = threading.Thread(target=self._go_on, daemon=True, name="lock")
        self._thread.start()

    def check(self) -> None:
        """Notices that another process has taken the folder, because this one was silent.

        Raises:
          RunFolderError: it has.
        """
        if self._taken_by is not None:
            raise RunFolderError(
                f"run_dir={self._file.parent} was taken over by another process "
                f"({self._taken_by}) while this one did not answer; this one ends, the other goes "
                "on from the newest checkpoint"
            )

    def is_seen(self, word: str) -> bool:
        """Whether the folder is locked by the one that has this word, as seen from here.

        Raises:
          CloudError: the bucket cannot be read.
        """
        found = self._read()
        return found is not None and found["word"] == word

    def release(self) -> None:
        """Leaves the folder to others; one that another process has taken is left alone."""
        self._ended.set()
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        try:
            found = self._read()
            if found is not None and found["word"] == self.word:
                self._file.unlink(missing_ok=True)
        except Exception as error:  # the run has ended: others find the lock stale
            _log.warning("%s is left: %s", self._file, " ".join(str(error).split()))

    def _wait_for_others(self) -> None:
        found = self._read()
        if found is None:
            return
        _log.info(
            "run_dir=%s is locked by %s; it may have been killed: looking for %.0f seconds",
            self._file.parent,
            found["by"],
            STALE,
        )
        until = time.monotonic() + STALE
        while time.monotonic() < until:
            time.sleep(min(1.0, STALE / 10))
            now = self._read()
            if now is None:
                return
            if now != found:
                raise RunFolderError(self._in_use(now))
        _log.info("run_dir=%s is free: %s is gone", self._file.parent, found["by"])

    def _in_use(self, found: dict[str, Any] | None) -> str:
        by = "" if found is None else f" ({found['by']})"
        return (
            f"run_dir={self._file.parent} is in use by another process{by}; wait for it, or give "
            "another run_dir"
        )

    def _go_on(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                found = self._read()
                if found is not None and found["word"] != self.word:
                    self._taken_by = found["by"]
                    return
                self._write()
            except Exception as error:  # the network may come back before anybody asks
                _log.info("%s: %s", self._file, " ".join(str(error).split()))

    def _read(self) -> dict[str, Any] | None:
        def read() -> dict[str, Any] | None:
            try:
                found = json.loads(self._file.read_text())
            except FileNotFoundError:
                return None
            except ValueError:
                found = None
            unknown = {"word": "", "by": "something that is no run"}
            return unknown | found if isinstance(found, dict) else unknown

        return cloud.patiently(f"{self._file} cannot be read", read)

    def _write(self) -> None:
        self._beat += 1
        by = f"process {os.getpid()} on {socket.gethostname()}"
        text = json.dumps({"word": self.word, "by": by, "beat": self._beat})
        cloud.patiently(f"{self._file} cannot be written", lambda: self._file.write_text(text))
