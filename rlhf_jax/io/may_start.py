"""Who may start in the folder of a run, so that two runs are never mixed in one."""

import os
import re
from typing import Any, Protocol

from rlhf_jax import cloud
from rlhf_jax.cloud import Place
from rlhf_jax.io.errors import RunFolderError
from rlhf_jax.io.sinks import read_metrics
from rlhf_jax.io.workplace import LOCK, Workplace

STEPS = ("training.max_steps:", "training.num_epochs:")
"""Changes that a run may go on with when they make more steps of it, which the loops judge."""
EARLY = frozenset({LOCK, "log.txt", "config.yaml.tmp"})
"""What a start leaves that fails before it has loaded anything: no run yet."""
PREPARED = EARLY | {"tokenizer", "cache", "tensorboard", "metrics.jsonl.tmp"}
"""What a start may leave that is refused before the configuration is written. Beside a lock, which
no other program leaves in a folder, these are no run either."""


class RunConfig(Protocol):
    """What is needed of `rlhf_jax.config.Config` (a package of the same layer)."""

    @property
    def run_dir(self) -> str: ...

    @property
    def logging(self) -> Any: ...

    @property
    def checkpoint(self) -> Any: ...

    @property
    def is_online(self) -> bool: ...

    def to_yaml(self) -> str: ...

    def to_tree(self) -> dict[str, Any]: ...

    def changes_since(self, path: str | os.PathLike[str]) -> list[str]: ...


def start_from_command(run_dir: Place) -> str:
    """How a run goes on with what it refuses to change."""
    number = 2
    while cloud.place(f"{run_dir}-{number}").exists():
        number += 1
    return (
        f"to go on from {run_dir} with changes, start the same command with "
        f"run_dir={run_dir}-{number} checkpoint.start_from={run_dir}"
    )


def check_may_start(config: RunConfig, resume_step: int | None, place: Workplace) -> None:
    """Refuse to mix two runs in one folder.

    Args:
        config: the run that wants to start.
        resume_step: its newest checkpoint in the folder, None when there is none.
        place: of its files.

    Raises:
        RunFolderError: see `RunFolder`.
    """
    cloud.check_address("checkpoint.start_from", config.checkpoint.start_from)
    path = place.address
    resume = config.checkpoint.resume
    names = {name for name in place.names() if not re.fullmatch(r"log\.\d+\.txt", name)}
    used = not names <= (PREPARED if LOCK in names else EARLY)
    if resume == "never" and used:
        raise RunFolderError(
            f"run_dir={path} is not empty and checkpoint.resume=never; give another run_dir, or "
            "resume=auto"
        )
    if resume == "must" and resume_step is None:
        raise RunFolderError(
            f"run_dir={path} holds no complete checkpoint and checkpoint.resume=must; use auto to "
            "start a new run"
        )
    if not used:
        return
    place.bring_first()
    if not (place.local / "config.yaml").exists():
        raise RunFolderError(
            f"run_dir={path} is not empty and holds no config.yaml, so it is no run to resume; "
            "give another run_dir"
        )
    if resume_step is None and "export" in names:
        raise RunFolderError(
            f"run_dir={path} holds a finished run without checkpoints; give another run_dir, or "
            "delete it"
        )
    rows = place.local / "metrics.jsonl"
    trained = resume_step is not None or (rows.exists() and read_metrics(rows))
    changes = config.changes_since(place.local / "config.yaml") if trained else []
    if resume_step is not None:
        changes = [change for change in changes if not change.startswith(STEPS)]
    if changes:
        more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
        onward = "" if resume_step is None else f"; {start_from_command(path)}"
        raise RunFolderError(
            f"run_dir={path} holds a run with another configuration ({changes[0]}{more}); give "
            f"another run_dir{onward}"
        )
