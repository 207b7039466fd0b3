"""Folders in buckets, by their addresses `gs://BUCKET/PATH` and `s3://BUCKET/PATH`.

`place` gives an address or the name of a folder as a path with the methods of `pathlib`; `fetched`
copies what lies in a bucket into the user's cache, for readers that need files; `patiently` tries
again what a network may refuse once. Credentials are those of the cloud's own tools: `gcloud auth
application-default login` or the machine's service account, and AWS's variables, files or role.
"""

import concurrent.futures
import hashlib
import importlib.util
import json
import logging
import os
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar

from etils import epath

from rlhf_jax.errors import RlhfError

_log = logging.getLogger(__name__)
ValueT = TypeVar("ValueT")
Place: TypeAlias = Any
"""A `pathlib.Path`, or the same of a bucket (`etils.epath.Path`): they have no common type."""
SCHEMES = {"gs": ("gcs", "gcsfs"), "s3": ("s3", "s3fs")}
"""Scheme -> (extra, the package of it that is looked for)."""
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between tries."""
THREADS = 8
"""Files that are copied at once."""
_FINAL = (400, 401, 403, 404)
"""HTTP's words for what no second try mends."""
_HOPELESS = (
    PermissionError,
    FileNotFoundError,
    IsADirectoryError,
    RlhfError,
    TypeError,
    AttributeError,
)
_fetched: set[pathlib.Path] = set()
"""What this process has copied."""


class CloudError(RlhfError, OSError):
    """A bucket that cannot be read or written, in one line."""


class AddressError(RlhfError, ValueError):
    """An address that cannot be used here, in one line."""

    exit_code = 2


def is_address(path: Any) -> bool:
    """Whether something is the address of a bucket (or of another place on the network)."""
    return isinstance(path, str | os.PathLike) and "://" in os.fspath(path)


def check_address(key: str, path: str | os.PathLike[str] | None) -> None:
    """Refuses an address that this installation cannot reach; what is none passes.

    Args:
      key: of the configuration, for the message.
      path: what it says.

    Raises:
      AddressError: another scheme, no bucket, or a package that is missing.
    """
    if path is None or not is_address(path):
        return
    text = os.fspath(path)
    scheme, _, rest = text.partition("://")
    if scheme not in SCHEMES:
        raise AddressError(
            f"{key}={text} is neither a folder nor a bucket that can be used (gs://BUCKET/PATH, "
            "s3://BUCKET/PATH): mount it, and give the folder where it is mounted"
        )
    if not re.fullmatch(r"[^/]+/.*[^/].*", rest):
        raise AddressError(f"{key}={text} names no folder in a bucket: {scheme}://BUCKET/PATH")
    extra, package = SCHEMES[scheme]
    if importlib.util.find_spec(package) is None:
        raise AddressError(
            f"{key}={text} needs the package {package}: pip install 'rlhf_jax[{extra}]'"
        )


def place(path: str | os.PathLike[str], key: str = "path") -> Place:
    """A path of the file system or of a bucket.

    Args:
      path: the name of a folder or file, an address, or what this function has returned.
      key: as for `check_address`.

    Raises:
      AddressError: an address that cannot be used.
    """
    if isinstance(path, pathlib.Path):
        return path
    if not is_address(path):
        return pathlib.Path(path)
    check_address(key, path)
    _prepare()
    return epath.Path(os.fspath(path).rstrip("/"))


def is_bucket(path: Place) -> bool:
    """Whether a path of `place` lies in a bucket."""
    return not isinstance(path, pathlib.Path)


def _prepare() -> None:
    """The same clients everywhere, and listings that are asked for anew each time: kept ones do not
    show what other processes wrote."""
    import fsspec.config  # needed for buckets only

    # etils would take TensorFlow's where that is installed
    os.environ.setdefault("EPATH_USE_TF", "false")
    for protocol in ("gs", "gcs", "s3"):
        fsspec.config.conf.setdefault(protocol, {})["use_listings_cache"] = False


def patiently(doing: str, work: Callable[[], ValueT]) -> ValueT:
    """Tries again, with growing waits, what a network may refuse once.

    Args:
      doing: what it is, with the address, for the message: "gs://b/x cannot be written".
      work: the same each time.

    Raises:
      CloudError: after the last try, or at once where no further one would help.
    """
    for wait in (*WAITS, None):
        try:
            return work()
        except Exception as error:  # each client library has its own
            final = _is_final(error)
            if wait is None or final:
                tries = "" if final else f" ({len(WAITS) + 1} tries)"
                raise CloudError(f"{doing}: {_reason(error)}{tries}") from error
            _log.info("%s: %s; tried again in %.0f seconds", doing, _reason(error), wait)
            time.sleep(wait)
    raise AssertionError


def _is_final(error: Exception) -> bool:
    if isinstance(error, _HOPELESS):
        return True
    number = getattr(error, "code", None)
    return number in _FINAL or type(error).__name__ in (
        "DefaultCredentialsError",
        "NoCredentialsError",
    )


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def together(works: Iterable[Callable[[], ValueT]]) -> list[ValueT]:
    """Does several things at a time, `THREADS` at most; the first error ends all."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(work) for work in works]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def copy_file(source: Place, target: Place) -> None:
    """Copies a file into a bucket, out of it, or inside the file system.

    A file of a bucket is there whole or not at all; on the file system the caller renames.
    """
    if is_address(target):
        filesystem, path = _filesystem(target)
        filesystem.put_file(os.fspath(source), path)
    elif is_address(source):
        filesystem, path = _filesystem(source)
        filesystem.get_file(path, os.fspath(target))
    else:
        shutil.copyfile(source, target)


def _filesystem(path: Place) -> tuple[Any, str]:
    """The client of an address, which moves large files in parts, and the path that it takes."""
    import fsspec  # needed for buckets only

    found: tuple[Any, str] = fsspec.core.url_to_fs(os.fspath(path))
    return found


def files_below(folder: Place) -> list[str]:
    """Relative names of all files in a folder of any kind, sorted; empty where there is none."""
    if not is_address(folder):
        local = pathlib.Path(folder)
        return sorted(
            file.relative_to(local).as_posix() for file in local.rglob("*") if file.is_file()
        )
    filesystem, path = _filesystem(folder)
    start = path.rstrip("/") + "/"
    names = (found.removeprefix(start) for found in filesystem.find(path))
    # an object named like a folder stands for an empty one
    return sorted(name for name in names if name and not name.endswith("/"))


def download(source: Place, folder: pathlib.Path) -> None:
    """Copies all files of a bucket's folder into one of the file system, and asks for none twice
    that is the same: its size, and whatever the bucket tells of its contents, are kept beside it.

    Args:
      source: of a bucket.
      folder: made when absent.

    Raises:
      CloudError: it cannot be read, or holds nothing.
    """
    shown = os.fspath(source)
    names = patiently(f"{shown} cannot be read", lambda: files_below(source))
    if not names:
        raise CloudError(f"{shown} holds no file")
    folder.mkdir(parents=True, exist_ok=True)
    # not in it, where it would be taken for data
    notes = folder.with_name(f".{folder.name}.stamps")
    known = _noted(notes)
    stamps: dict[str, str] = {}

    def take(name: str) -> None:
        what = source / name
        stamps[name] = patiently(f"{what} cannot be read", lambda: _stamp(what))
        if known.get(name) != stamps[name] or not (folder / name).is_file():
            fetch_file(what, folder / name)

    together([lambda name=name: take(name) for name in names])  # type: ignore[misc]
    for stale in set(files_below(folder)) - set(names):
        # what another process of this machine is about to rename
        if not stale.endswith(".tmp"):
            (folder / stale).unlink(missing_ok=True)
    notes.write_text(json.dumps(stamps), encoding="utf-8")


def _noted(notes: pathlib.Path) -> dict[str, str]:
    """What was kept; nothing where another process is just writing it."""
    try:
        found: dict[str, str] = json.loads(notes.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found


def fetch_file(source: Place, target: pathlib.Path) -> None:
    """Copies one file out of a bucket; under its name it is whole.

    Raises:
      CloudError: it cannot be read.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    patiently(f"{source} cannot be read", lambda: copy_file(source, temporary))
    os.replace(temporary, target)


def _stamp(file: Place) -> str:
    if not is_address(file):
        return f"{file.stat().length}-{file.stat().mtime}"
    filesystem, path = _filesystem(file)
    info = filesystem.info(path)
    told = [str(info.get(name)) for name in ("size", "etag", "ETag", "md5Hash", "generation")]
    return "-".join(told)


def fetched(path: str | os.PathLike[str], key: str = "path") -> pathlib.Path:
    """A file or folder as it is on this machine: one in a bucket is copied into the user's cache
    (`XDG_CACHE_HOME`, else `~/.cache`), as it was when this process first asked.

    Args:
      path: a name, or an address.
      key: as for `check_address`.

    Raises:
      AddressError: an address that cannot be used.
      CloudError: it cannot be read.
    """
    if not is_address(path):
        return pathlib.Path(path)
    source = place(path, key)
    digest = hashlib.sha256(os.fspath(source).encode()).hexdigest()[:16]
    target = _cache() / digest / source.name
    if target in _fetched and target.exists():
        return target
    if patiently(f"{source} cannot be read", source.is_dir):
        download(source, target)
    else:
        fetch_file(source, target)
    _fetched.add(target)
    return target


def _cache() -> pathlib.Path:
    home = os.environ.get("XDG_CACHE_HOME")
    root = pathlib.Path(home) if home else pathlib.Path.home() / ".cache"
    return root / "rlhf_jax" / "buckets"
