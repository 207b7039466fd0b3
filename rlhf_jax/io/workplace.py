"""Where the small files of a run are written: in its folder, or beside a bucket that gets copies.

A run in a bucket has a working folder of its own on every host, made anew at each start (in
`TMPDIR`): files that a run adds to, or reads back, are there, and `publish` copies what has changed
into the bucket. So that a checkpoint never comes before what it counts on (rows of metrics,
completions), the run publishes before it saves. Checkpoints themselves go to the bucket directly.
"""

import fcntl
import logging
import pathlib
import shutil
import tempfile
import time
from collections.abc import Collection
from typing import IO, Protocol

from rlhf_jax import cloud
from rlhf_jax.cloud import Place
from rlhf_jax.io.bucket_lock import BucketLock
from rlhf_jax.io.errors import RunFolderError
from rlhf_jax.io.mirror import Mirror
from rlhf_jax.io.shared_folder import check_shared
from rlhf_jax.sharding.processes import count, from_leader, gathered, is_leader, number

_log = logging.getLogger(__name__)
LOCK = ".lock"
CHECKPOINTS = "checkpoints"
FIRST = ("config.yaml", "metrics.jsonl")
"""What tells whether a run may start."""
EVERYBODY = ("tokenizer", "cache")
"""What every process of a run reads."""
NOT_BROUGHT = ("tensorboard", "export", "exports", CHECKPOINTS, LOCK)
"""What nobody reads again; each session writes its own TensorBoard events."""
_SEEN_SECONDS = 30.0


class Workplace(Protocol):
    """The place of a run's files."""

    @property
    def address(self) -> Place:
        """The folder that the configuration names."""
        ...

    @property
    def local(self) -> pathlib.Path:
        """Where files are written and read."""
        ...

    def names(self) -> set[str]:
        """What lies at the top of the folder."""
        ...

    def bring_first(self) -> None:
        """Brings what tells whether a run may start here; the leader calls it."""
        ...

    def lock(self) -> None:
        """Takes the folder; the leader calls it.

        Raises:
          RunFolderError: another process trains in it.
        """
        ...

    def check_shared(self) -> None:
        """Refuses a folder that not all processes see; all call it."""
        ...

    def bring(self, *, resumed: bool) -> None:
        """Brings what a run reads again; all call it.

        Args:
          resumed: the run goes on from a checkpoint.
        """
        ...

    def clear(self, names: Collection[str]) -> None:
        """Removes what an earlier start has left; the leader calls it."""
        ...

    def publish(self) -> None:
        """Lets the folder have all that was written; all call it, and hear of what fails.

        Raises:
          CloudError: it cannot be written.
        """
        ...

    def leave(self, *, publish: bool) -> None:
        """Publishes for the last time, if asked, and gives the folder up; each for itself."""
        ...


def workplace(run_dir: str) -> Workplace:
    """The place of a run.

    Args:
      run_dir: a folder or the address of one in a bucket.

    Raises:
      AddressError: an address that cannot be used.
    """
    address = cloud.place(run_dir, "run_dir")
    return BucketPlace(address) if cloud.is_bucket(address) else FolderPlace(address)


class FolderPlace:
    """A folder of the file system, which all processes share: written in place.

    Args:
      folder: of the run; made by `lock`.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.address = folder
        self.local = folder
        self._lock_file: IO[str] | None = None

    def names(self) -> set[str]:
        if self.local.exists() and not self.local.is_dir():
            raise RunFolderError(f"run_dir={self.local} is a file; give a folder")
        return {child.name for child in self.local.iterdir()} if self.local.is_dir() else set()

    def bring_first(self) -> None:
        pass

    def lock(self) -> None:
        self.local.mkdir(parents=True, exist_ok=True)
        file = (self.local / LOCK).open("a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise RunFolderError(
                f"run_dir={self.local} is in use by another process; wait for it, or give another "
                "run_dir"
            ) from None
        except OSError as error:  # a file system without locks
            file.close()
            _log.warning(
                "run_dir=%s cannot be locked (%s): start no second run in it",
                self.local,
                error.strerror,
            )
        else:
            self._lock_file = file

    def check_shared(self) -> None:
        check_shared(self.local, LOCK)

    def bring(self, *, resumed: bool) -> None:
        pass

    def clear(self, names: Collection[str]) -> None:
        for name in names:
            shutil.rmtree(self.local / name, ignore_errors=True)

    def publish(self) -> None:
        pass

    def leave(self, *, publish: bool) -> None:
        if self._lock_file is not None:
            # the file stays: deleting it would let two processes hold different ones
            with self._lock_file:
                # closing alone would leave it to forked children
                fcntl.flock(self._lock_file, fcntl.LOCK_UN)
            self._lock_file = None


class BucketPlace:
    """A folder in a bucket, and a working folder of this process that is removed at the end.

    Args:
      address: from `cloud.place`.
    """

    def __init__(self, address: Place) -> None:
        self.address = address
        self._folder = tempfile.TemporaryDirectory(prefix="rlhf_jax-", ignore_cleanup_errors=True)
        self.local = pathlib.Path(self._folder.name)
        self._mirror = Mirror(self.local, address)
        self._lock = BucketLock(address / LOCK)

    def names(self) -> set[str]:
        return self._mirror.names()

    def bring_first(self) -> None:
        self._mirror.bring(FIRST)

    def lock(self) -> None:
        self._lock.take()

    def check_shared(self) -> None:
        if count() == 1:
            return
        word = from_leader("word of the run folder", lambda: self._lock.word)
        gathered("see run folder", lambda: is_leader() or self._await(word))

    def _await(self, word: str) -> bool:
        until = time.monotonic() + _SEEN_SECONDS
        while not self._lock.is_seen(word):
            if time.monotonic() > until:
                raise RunFolderError(
                    f"run_dir={self.address} of process 0 is not seen by process {number()}: give "
                    "all hosts the same credentials and project"
                )
            time.sleep(0.5)
        return True

    def bring(self, *, resumed: bool) -> None:
        gathered("bring run folder", lambda: self._bring(resumed))

    def _bring(self, resumed: bool) -> None:
        if not resumed:
            wanted = {"cache", "log.txt"} if is_leader() else {"cache"}
        elif is_leader():
            wanted = self.names() - set(NOT_BROUGHT)
        else:
            wanted = set(EVERYBODY)
        self._mirror.bring(wanted)

    def clear(self, names: Collection[str]) -> None:
        self._mirror.clear(names)

    def publish(self) -> None:
        from_leader("publish", self._publish)

    def _publish(self) -> None:
        self._lock.check()
        self._mirror.publish()

    def leave(self, *, publish: bool) -> None:
        try:
            if publish and is_leader():
                self._publish()
            elif publish:
                self._keep_log()
        finally:
            self._lock.release()
            self._folder.cleanup()

    def _keep_log(self) -> None:
        """Of the further processes, the warnings; what they hold besides is the leader's too."""
        log = self.local / f"log.{number()}.txt"
        if log.is_file():
            target = self.address / log.name
            cloud.patiently(
                f"{target} cannot be written", lambda: target.write_bytes(log.read_bytes())
            )
