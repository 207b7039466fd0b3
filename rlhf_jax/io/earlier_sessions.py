"""What earlier sessions of a run left in its folder: their pace of rows, gaps, and time."""

import logging
import pathlib

import yaml

from rlhf_jax.io.sinks import read_metrics

_log = logging.getLogger(__name__)


def log_every(config_file: pathlib.Path) -> int:
    """Steps between rows in the session that wrote a config.yaml; 1 where it does not say."""
    try:
        tree = yaml.safe_load(config_file.read_text(encoding="utf-8"))
        return int(tree["training"]["log_every"])
    # refused, where it matters, by `changes_since`
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return 1


def warn_of_lost_rows(run_dir: pathlib.Path, resume_step: int, every: int) -> None:
    """Says so when metrics.jsonl ends before the checkpoint that a run goes on from."""
    path = run_dir / "metrics.jsonl"
    rows = read_metrics(path) if path.exists() else []
    last = max((row["step"] for row in rows if row["step"] <= resume_step), default=None)
    if (last or 0) < resume_step - resume_step % every:
        found = "has no rows" if last is None else f"ends at step {last}"
        _log.warning(
            "%s %s, the checkpoint is of step %d: rows between are lost, and the plot has a hole",
            path,
            found,
            resume_step,
        )


def seconds_until(path: pathlib.Path, step: int) -> float:
    """The largest `time/elapsed` in a metrics file up to a step; 0 without one."""
    rows = read_metrics(path) if path.exists() else []
    return max((row.get("time/elapsed", 0.0) for row in rows if row["step"] <= step), default=0.0)
