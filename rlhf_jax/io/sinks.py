"""Where metrics go: `metrics.jsonl`, TensorBoard, Weights & Biases, by `write` and `close`."""

import json
import math
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from rlhf_jax import cloud
from rlhf_jax.cloud import Place
from rlhf_jax.errors import RlhfError
from rlhf_jax.io.disk import naming

FLUSH_SECONDS = 10.0
"""TensorBoard events reach the disk at least so often."""
Split = str
"""`train` or `eval`."""
SPLITS = ("train", "eval")
NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""Texts that stand for numbers which JSON has not."""


class MetricsError(RlhfError, ValueError):
    """A metrics file or service that cannot be used, in one line."""

    exit_code = 2


class Sink(Protocol):
    """Takes the metrics of a step."""

    def write(self, step: int, metrics: Mapping[str, Any], split: Split = "train") -> None: ...

    def close(self) -> None: ...


class JsonlSink:
    """Appends one JSON object per line: `{"step": 3, "split": "train", "loss/total": 0.69, ...}`.

    The file is strict JSON: NaN and infinities are the strings "NaN", "Infinity" and "-Infinity";
    `read_metrics` reads them. A float32 is written with the fewest digits that give the same
    float32 back, so equal values have equal texts. Every row is flushed: a killed process loses at
    most the row it was writing.

    Args:
        path: the file.
        resume_step: None starts an empty file. A step keeps the rows up to it and drops later ones
            and a torn last line, so that a run that was killed and resumed leaves the same file as
            one that was not.

    Raises:
        MetricsError: a line other than the last is not JSON.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume_step: int | None = None):
        self._path = pathlib.Path(path)
        kept = [] if resume_step is None else _lines_up_to(self._path, resume_step)
        fresh = self._path.with_name(self._path.name + ".tmp")
        with naming(fresh):
            fresh.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(fresh, self._path)
        self._file = self._path.open("a", encoding="utf-8")

    def write(self, step: int, metrics: Mapping[str, Any], split: Split = "train") -> None:
        """Append a row."""
        row = {"step": int(step), "split": split} | {
            name: json_number(value) for name, value in metrics.items()
        }
        with naming(self._path):
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        with naming(self._path):
            self._file.close()


class TensorBoardSink:
    """Writes TensorBoard events; training's `loss/total` appears as `train/loss/total`.

    Events are written at once, not by tensorboardX's thread: when that one dies of a full disk, its
    queue fills up and the run waits for it for ever.

    Args:
        directory: folder of the event files.
        resume_step: events after this step, from a run that was killed, are hidden.
    """

    def __init__(self, directory: str | os.PathLike[str], *, resume_step: int | None = None):
        from tensorboardX.event_file_writer import EventsWriter  # heavy
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self._directory = pathlib.Path(directory)
        self._event = Event
        self._scalar = scalar
        suffix = f".step{resume_step or 0}"  # two sessions within one second would share a file
        with naming(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(self._directory / "events"), suffix)
            if resume_step is not None:
                start = SessionLog(status=SessionLog.SessionStatus.START)
                self._writer.write_event(
                    Event(wall_time=time.time(), step=resume_step + 1, session_log=start)
                )
            self._writer.flush()
        self._flushed = time.monotonic()

    def write(self, step: int, metrics: Mapping[str, Any], split: Split = "train") -> None:
        """Add one event per metric."""
        values = [
            # "@" is no tag character
            self._scalar(f"{split}/{name}".replace("@", "_"), float(value)).value[0]
            for name, value in metrics.items()
        ]
        event = self._event(wall_time=time.time(), step=int(step))
        event.summary.value.extend(values)
        with naming(self._directory):
            self._writer.write_event(event)
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self._writer.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        """Flush and close."""
        with naming(self._directory):
            self._writer.close()


class WandbSink:
    """Sends metrics to Weights & Biases (extra `wandb`); the kept id lets a resumed run continue.

    The step is one of the values logged, and the axis of all others. W&B's own step may only grow:
    with it, everything that a resumed run logs between its checkpoint and the step at which it was
    killed would be dropped.

    Args:
        run_dir: the run folder.
        project: project name.
        name: name of the run.
        config: the resolved configuration, shown beside the run.

    Raises:
        MetricsError: wandb is not installed, or no run can be started (no login, no network).
    """

    def __init__(
        self, run_dir: str | os.PathLike[str], *, project: str, name: str, config: Mapping[str, Any]
    ):
        try:
            import wandb  # optional
        except ModuleNotFoundError as error:
            missing = f" (which needs {error.name})" if error.name not in (None, "wandb") else ""
            raise MetricsError(
                f"logging.wandb=true needs the package wandb{missing}: pip install "
                "'rlhf_jax[wandb]'"
            ) from None
        id_file = pathlib.Path(run_dir) / "wandb_id.txt"
        run_id = id_file.read_text(encoding="utf-8").strip() if id_file.exists() else None
        try:
            self._run = wandb.init(
                project=project,
                name=name,
                dir=str(run_dir),
                config=dict(config),
                id=run_id,
                resume="allow",
            )
        # wandb has many: usage, login, network, a project of somebody else
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise MetricsError(
                f"logging.wandb=true, but wandb.init failed: {reason}; log in, or set "
                "WANDB_MODE=offline"
            ) from error
        self._run.define_metric("*", step_metric="step")
        with naming(id_file):
            id_file.write_text(self._run.id + "\n", encoding="utf-8")

    def write(self, step: int, metrics: Mapping[str, Any], split: Split = "train") -> None:
        """Log one point per metric."""
        self._run.log(
            {"step": int(step)}
            | {f"{split}/{name}": float(value) for name, value in metrics.items()}
        )

    def close(self) -> None:
        """Finish the W&B run."""
        self._run.finish()


def json_number(value: Any) -> float | int | str:
    """A scalar as strict JSON: integers as is, float32 in its shortest decimal, NaN as a string."""
    array = np.asarray(value)
    if array.dtype.kind in "iub":
        return int(array)
    if array.dtype != np.float64:
        array = np.asarray(np.float64(str(array.astype(np.float32)[()])))
    number = float(array)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return number


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Rows of a metrics file; "NaN" and infinities are floats again, a torn last line is left out.

    Args:
        path: a metrics.jsonl, or the run folder that holds it.

    Returns:
        One dict per row: `step`, `split`, and the metrics.

    Raises:
        MetricsError: no such file, or a line other than the last is not JSON.
    """
    file = cloud.place(path)
    file = file / "metrics.jsonl" if file.is_dir() else file
    if not file.exists():
        raise MetricsError(f"{file}: no such metrics file")
    return [
        {
            name: NUMBERS.get(value, value) if name != "split" and isinstance(value, str) else value
            for name, value in row.items()
        }
        for _, row in _rows(file)
    ]


def salvage_metrics(path: str | os.PathLike[str]) -> tuple[list[dict[str, Any]], int]:
    """`read_metrics` for looking at a run, whatever happened to its file.

    Args:
        path: a metrics.jsonl, or the run folder that holds it.

    Returns:
        (rows, how many lines were left out: damaged ones, and a last one that is not whole).

    Raises:
        MetricsError: no such file, or it cannot be read.
    """
    path = pathlib.Path(path)
    path = path / "metrics.jsonl" if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise MetricsError(f"{path}: cannot be read: {error.strerror}") from None
    lines = [line for line in text.split("\n") if line.strip()]
    rows = [row for line in lines if (row := _salvaged(line)) is not None]
    return rows, len(lines) - len(rows)


def _salvaged(line: str) -> dict[str, Any] | None:
    """A row with numbers alone beside its split; None where the line is damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_row = isinstance(row, dict) and type(row.get("step")) is int and row.get("split") in SPLITS
    if not is_row:
        return None
    values = {
        name: NUMBERS.get(value, value) if isinstance(value, str) else value
        for name, value in row.items()
        if name != "split"
    }
    numbers = {name: value for name, value in values.items() if type(value) in (int, float)}
    return numbers | {"split": row["split"]}


def _lines_up_to(path: pathlib.Path, step: int) -> list[str]:
    return [line for line, row in _rows(path) if row["step"] <= step] if path.exists() else []


def _rows(path: Place) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        complete = number < len(lines)
        try:
            row = json.loads(line) if complete else None
        except json.JSONDecodeError:
            if number < len(lines) - 1:
                raise MetricsError(
                    f"{path} line {number} is not JSON: the file was changed by something else"
                ) from None
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            yield line, row
