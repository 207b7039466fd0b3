"""Run folders as they are found: finished, going on, killed, without completions, damaged."""

import fcntl
import logging
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rlhf_jax.config import ConfigError
from rlhf_jax.config.document import read_document, settled
from rlhf_jax.config.errors import did_you_mean
from rlhf_jax.fields import flat
from rlhf_jax.io import salvage_metrics
from rlhf_jax.io.workplace import LOCK
from rlhf_jax.runs.clock import Cost, costs, knows_compiling
from rlhf_jax.runs.provenance import read_sessions

_log = logging.getLogger(__name__)
METRICS_FILE = "metrics.jsonl"
DEPTH = 4
"""Levels below a folder of runs."""


class Run(NamedTuple):
    """What a run folder holds, read once."""

    path: pathlib.Path
    tree: dict[str, Any]
    """The configuration, nested; empty where it cannot be read."""
    rows: list[dict[str, Any]]
    """Of metrics.jsonl, in their order."""
    costs: list[Cost]
    """One per row."""
    sessions: list[dict[str, Any]]
    """See `rlhf_jax.runs.provenance`; empty for a run made before there were any."""
    state: str
    """"finished", "going", "interrupted", "failed", "killed", or "stopped" where nobody knows
    why."""
    reason: str
    """The error of a failed run."""
    notes: list[str]
    """What is missing or damaged, a sentence each."""

    @property
    def config(self) -> dict[str, Any]:
        """Dotted key -> value."""
        return flat(self.tree)

    @property
    def algorithm(self) -> str:
        """Its name, "unknown" where the configuration cannot be read."""
        return str(self.config.get("algorithm.name", "unknown"))

    @property
    def seed(self) -> int | None:
        """Of the run."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def step(self) -> int:
        """Training steps made, as far as rows tell."""
        return max((row["step"] for row in self.rows), default=0)

    @property
    def total_steps(self) -> int | None:
        """Steps that the run is to make; None where the number of epochs decides."""
        steps = self.config.get("training.max_steps")
        return steps if isinstance(steps, int) else None

    @property
    def is_online(self) -> bool:
        """Whether it samples completions."""
        return any("data/groups_generated" in row for row in self.rows) or bool(
            self.tree.get("rewards")
        )

    def of(self, split: str) -> list[dict[str, Any]]:
        """Rows of a split."""
        return [row for row in self.rows if row["split"] == split]

    def values(self, split: str, metric: str) -> list[tuple[int, float]]:
        """(step, value) wherever the metric is a number."""
        found = [(row["step"], row.get(metric)) for row in self.of(split)]
        return [(step, value) for step, value in found if value is not None and value == value]


def read_run(path: pathlib.Path) -> Run:
    """Reads one run folder.

    Raises:
        MetricsError: it has no metrics.jsonl, or that cannot be read.
    """
    rows, lost = salvage_metrics(path)
    notes = []
    if lost:
        many = "1 line" if lost == 1 else f"{lost} lines"
        notes.append(f"{many} of {METRICS_FILE} cannot be read and {_are(lost)} left out.")
    try:
        tree = settled(read_document(path / "config.yaml").tree)
    except ConfigError as error:
        tree = {}
        notes.append(f"The configuration is not known: {error}.")
    sessions = read_sessions(path)
    state, reason = state_of(path, sessions)
    if rows and not knows_compiling(rows):
        notes.append(
            "What was compiled is not noted in this run: its seconds of training contain it."
        )
    return Run(path, tree, rows, costs(rows), sessions, state, reason, notes)


def state_of(path: pathlib.Path, sessions: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """(state, reason) of a run, as in `Run`."""
    if is_locked(path / LOCK):
        return "going", ""
    if not sessions:
        return ("finished" if (path / "export").is_dir() else "stopped"), ""
    ended = sessions[-1].get("ended")
    if ended is None:
        return "killed", ""
    if ended in ("finished", "interrupted"):
        return ended, ""
    return "failed", str(ended)


def is_locked(path: pathlib.Path) -> bool:
    """Whether a process trains in the folder of this lock file."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        # Given back at once: a run that starts finds it held for microseconds at most.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(file)
    return False


def find_runs(paths: Iterable[str | os.PathLike[str]]) -> list[pathlib.Path]:
    """Run folders among some paths, and below those that are folders of runs.

    Args:
        paths: run folders, or folders that hold some.

    Returns:
        Each once, those of a folder by name.

    Raises:
        ConfigError: a path is neither.
    """
    found: list[pathlib.Path] = []
    for path in map(pathlib.Path, paths):
        if not path.exists():
            siblings = [each.name for each in path.parent.glob("*")]
            raise ConfigError(f"{path}: no such folder{did_you_mean(path.name, siblings)}")
        below = [path] if (path / METRICS_FILE).is_file() else runs_below(path, DEPTH)
        if not below:
            raise ConfigError(
                f"{path} is no run and holds none: a run folder has a {METRICS_FILE} "
                "(rlhf-jax train writes it)"
            )
        found += below
    return list({path.resolve(): path for path in found}.values())


def runs_below(folder: pathlib.Path, depth: int) -> list[pathlib.Path]:
    """Run folders in a folder, by name; inside of a run none is looked for."""
    if not folder.is_dir():
        return []
    found: list[pathlib.Path] = []
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        if (path / METRICS_FILE).is_file():
            found.append(path)
        elif depth > 1:
            found += runs_below(path, depth - 1)
    return found


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
