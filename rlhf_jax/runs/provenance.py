"""What a run ran on, and how its sessions ended: versions, devices, state of the source.

`sessions.json` in the run folder is a list, oldest session first, so that a run which was resumed
on another machine, or with another version, says so. A session without an `ended` is still going,
or was killed.
"""

import datetime
import hashlib
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
import re
import subprocess
from typing import Any

import jax

from rlhf_jax import __version__
from rlhf_jax.config.document import parse_document, settled
from rlhf_jax.fields import texts_of
from rlhf_jax.io.disk import write_whole
from rlhf_jax.sharding.processes import count

_log = logging.getLogger(__name__)
FILE = "sessions.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "transformers")
"""Whose versions a result may depend on."""
_PATIENCE = 5.0
"""Seconds that git may take."""


def describe_environment() -> dict[str, Any]:
    """Versions, devices and commit of this process, as JSON values."""
    devices = jax.devices()
    commit, is_changed = source_state(pathlib.Path(__file__).parents[1])
    return {
        "process": os.getpid(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "rlhf_jax": __version__,
        "commit": commit,
        "source_changed": is_changed,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "platform": devices[0].platform,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processes": count(),
        "cpu_cores": _usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _usable_cores() -> int | None:
    """Cores that this process may use (`taskset`): XLA computes with as many threads, and how sums
    are rounded depends on it."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def note_session(run_dir: pathlib.Path, resumed_after: int | None) -> None:
    """Adds this session to the run's `sessions.json`; the one process that writes calls it.

    Args:
      run_dir: the run folder.
      resumed_after: step of the checkpoint that the session goes on from; None: it starts the run,
        and what an earlier start without a checkpoint left is replaced.
    """
    earlier = [] if resumed_after is None else read_sessions(run_dir)
    files = own_files(run_dir)
    before = earlier[-1].get("files", {}) if earlier else {}
    for name, digest in files.items():
        if before.get(name, digest) != digest:
            _log.warning(
                "%s has changed since the session before: this one goes on with what it says now",
                name,
            )
    now = describe_environment() | {"resumed_after": resumed_after, "files": files}
    _write(run_dir, [*earlier, now])


def own_files(run_dir: pathlib.Path) -> dict[str, str]:
    """Files of the user's that the run's configuration names for their functions (rewards, an
    algorithm, a loss, advantages), as it writes them -> SHA-256 of their content.

    Args:
      run_dir: the run folder.
    """
    path = run_dir / "config.yaml"
    if not path.exists():
        return {}
    tree = settled(parse_document(path.read_text(encoding="utf-8"), path.name).tree)
    names = [re.fullmatch(r"(.+\.py):\w+", text) for text in texts_of(tree)]
    files = sorted({name[1] for name in names if name and pathlib.Path(name[1]).is_file()})
    return {name: hashlib.sha256(pathlib.Path(name).read_bytes()).hexdigest() for name in files}


def note_end(run_dir: pathlib.Path, how: str) -> None:
    """Adds to this process's session how it ended; nothing before `note_session`.

    Args:
      run_dir: the run folder.
      how: "finished", "interrupted", or the error that ended it, in one line.
    """
    sessions = read_sessions(run_dir)
    if not sessions or "ended" in sessions[-1] or sessions[-1].get("process") != os.getpid():
        return
    try:
        _write(run_dir, [*sessions[:-1], sessions[-1] | {"ended": how}])
    except OSError as error:  # the disk is full: it must not take the place of what ended the run
        _log.warning("%s says nothing of the end of this session: %s", run_dir / FILE, error)


def _write(run_dir: pathlib.Path, sessions: list[dict[str, Any]]) -> None:
    write_whole(run_dir / FILE, json.dumps(sessions, indent=1) + "\n")


def read_sessions(run_dir: pathlib.Path) -> list[dict[str, Any]]:
    """What `note_session` wrote; nothing for a run without it, or where it cannot be read."""
    path = run_dir / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        _log.warning("%s cannot be read: %s", path, error)
        return []
    if not isinstance(found, list):
        return []
    return [session for session in found if isinstance(session, dict)]


def source_state(package: pathlib.Path) -> tuple[str | None, bool | None]:
    """(commit of the library's source, whether files differ from it); None where nobody knows.

    Args:
      package: folder of the package. Only a repository whose root is directly above it counts: an
        environment inside of somebody's own repository is not that repository's commit.
    """
    root = package.parent
    if (root / ".git").exists():
        commit = _git(root, "rev-parse", "HEAD")
        changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", package.name)
        return commit or None, None if changes is None else bool(changes)
    try:
        origin = importlib.metadata.distribution("rlhf_jax").read_text("direct_url.json")
        return json.loads(origin or "{}").get("vcs_info", {}).get("commit_id"), None
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None, None


def _git(root: pathlib.Path, *arguments: str) -> str | None:
    """What git says; None where it is not installed, refuses, or does not answer."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
