"""Everything that a run generates, as one table on disk.

`run_dir/completions/` holds one table in files of about 100 steps, `train/` beside `eval/`, all
with the same columns, so that ``pandas.read_parquet("RUN/completions")`` reads it whole:

    step              training step in which the row was generated (evaluations: made until then)
    split             train | eval
    sample            which completion of its prompt, from 0; -1: the greedy one of an evaluation
    kept              the group was kept for training (dynamic sampling drops what teaches nothing)
    trained_step      the step whose update used it; null: none did, or not yet
    generation_batch  which batch of generation, counted over the run; null at evaluations
    prompt_index      which prompt of the split
    prompt, completion, every reward by its name, reward (the weighted sum); null: not graded
    tokens, truncated length of the completion, and whether it was cut by the limit
    then, as text, whatever else a reward function reports

Rows wait in memory until a checkpoint, an evaluation or `FLUSH_BYTES`: what a checkpoint counts as
generated is in the files before it, and what was generated after the checkpoint from which a run
goes on is dropped, because it is generated again. Files are replaced as a whole, so a process that
is killed leaves no torn one.
"""

import json
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, NamedTuple

import pyarrow
import pyarrow.parquet

from rlhf_jax.fields import documented
from rlhf_jax.io.disk import naming

_log = logging.getLogger(__name__)
FILE_STEPS = 100
FILE_BYTES = 32 << 20
"""Steps, and bytes of text, after which the next step begins a new file."""
FLUSH_BYTES = 16 << 20
"""Text that waits in memory."""
GREEDY = -1
"""`sample` of a greedy completion."""
SPLITS = ("train", "eval")
_BEFORE = {
    "step": pyarrow.int64(),
    "split": pyarrow.string(),
    "sample": pyarrow.int32(),
    "kept": pyarrow.bool_(),
    "trained_step": pyarrow.int64(),
    "generation_batch": pyarrow.int64(),
    "prompt_index": pyarrow.int64(),
    "prompt": pyarrow.string(),
    "completion": pyarrow.string(),
}
_AFTER = {"reward": pyarrow.float64(), "tokens": pyarrow.int32(), "truncated": pyarrow.bool_()}
COMPLETION_COLUMNS = (*_BEFORE, *_AFTER)
"""The columns besides one for each reward: names that no reward can have."""

Kind = Literal["none", "jsonl", "parquet"]
GroupId = tuple[int, int]
"""(generation batch, number of the group in it)."""


@documented
class Resumed(NamedTuple):
    """Where the checkpoint stands from which a run goes on."""

    step: int
    """Training steps made."""
    draws: int
    """Generation batches made."""
    evaluated: frozenset[int] = frozenset()
    """Steps whose evaluation is known; the others are made again."""


class CompletionsWriter:
    """Writes the table of a run; a context manager that flushes at the end, also after an error.

    Args:
      folder: made when there is something to write.
      kind: format; "none" writes nothing.
      rewards: names of the rewards.
      group_size: completions per training prompt.
      resumed: None empties the folder. Otherwise rows generated after that checkpoint are dropped,
        and those trained on after it are no longer marked so.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        kind: Kind,
        rewards: Sequence[str],
        group_size: int,
        resumed: Resumed | None = None,
    ) -> None:
        self._folder = folder
        self._kind = kind
        self._group_size = group_size
        self._types = _BEFORE | dict.fromkeys(rewards, pyarrow.float64()) | _AFTER
        # what functions logged in earlier sessions is rewritten with the rest
        if kind != "none" and resumed is not None:
            self._types |= dict.fromkeys(self._further_columns(), pyarrow.string())
        self._waiting: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        self._trained: dict[GroupId, int] = {}
        self._bytes = 0
        self._columns = len(self._types)
        if kind == "none":
            return
        if resumed is None:
            # of a start that failed before its first checkpoint
            shutil.rmtree(folder, ignore_errors=True)
        else:
            self._rewind(resumed)

    def __enter__(self) -> "CompletionsWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.flush()
        except Exception as failed:
            if error is None:
                raise
            # must not take the place of what went wrong before
            _log.warning("closing %s: %s", self._folder, " ".join(str(failed).split()))

    def add(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Takes the rows of one generation batch or of an evaluation.

        Args:
          columns: name -> one value per completion, all of one `split` and `step`; a name that is
            no column of the table becomes one of text. A missing `trained_step` or
            `generation_batch` is null.
        """
        if self._kind == "none":
            return
        for name in columns:
            self._types.setdefault(name, pyarrow.string())
        typed = {name: _typed(values, self._types[name]) for name, values in columns.items()}
        rows = [
            dict(zip(typed, values, strict=True)) for values in zip(*typed.values(), strict=True)
        ]
        if not rows:
            return
        self._waiting[rows[0]["split"]] += rows
        self._bytes += _text_bytes(rows)
        if self._bytes > FLUSH_BYTES:
            self.flush()

    def trained(self, groups: Sequence[GroupId], step: int) -> None:
        """Notes which groups the update of a step used."""
        self._trained |= {group: step for group in groups if group[0] >= 0}

    def flush(self) -> None:
        """Brings everything to disk."""
        if self._kind == "none" or not (self._trained or any(self._waiting.values())):
            return
        missing = self._mark(self._waiting["train"])
        # groups carried over stand in one of the last files
        for path in reversed(self._files("train")):
            if not missing:
                break
            rows = self._read(path)
            left = self._mark(rows, missing)
            if len(left) < len(missing):
                self._write(path, rows)
            missing = left
        for split in SPLITS:
            self._append(split, self._waiting[split])
            self._waiting[split] = []
        self._trained = {}
        self._bytes = 0
        if len(self._types) > self._columns:
            self._widen()

    def _append(self, split: str, rows: list[dict[str, Any]]) -> None:
        """Adds rows behind those on disk; a file ends with a whole step."""
        if not rows:
            return
        files = self._files(split)
        path = files[-1] if files else None
        held = [] if path is None else self._read(path)
        size = _text_bytes(held)
        for block in _by_step(rows):
            step = block[0]["step"]
            full = (
                bool(held)
                and (step - held[0]["step"] >= FILE_STEPS or size > FILE_BYTES)
                and step != held[-1]["step"]
            )
            if path is None or full:
                if path is not None:
                    self._write(path, held)
                path = self._folder / split / f"from-step-{step:08d}.{self._kind}"
                held = []
                size = 0
            held += block
            size += _text_bytes(block)
        if path is not None:
            self._write(path, held)

    def _mark(
        self, rows: list[dict[str, Any]], wanted: Mapping[GroupId, int] | None = None
    ) -> dict[GroupId, int]:
        """Fills `trained_step`; returns the groups that are not among the rows."""
        left = dict(self._trained if wanted is None else wanted)
        found = set()
        number: dict[int, int] = {}
        for row in rows:
            batch = row["generation_batch"]
            # rows of a generation batch lie together, in the order of its groups
            place = number.get(batch, 0)
            number[batch] = place + 1
            group = (batch, place // self._group_size)
            if group in left:
                row["trained_step"] = left[group]
                found.add(group)
        return {group: step for group, step in left.items() if group not in found}

    def _rewind(self, resumed: Resumed) -> None:
        for split in SPLITS:
            for path in self._files(split, kinds=("jsonl", "parquet")):
                rows = self._read(path)
                kept = [row for row in rows if _is_before(row, resumed)]
                later = [row for row in kept if (row.get("trained_step") or 0) > resumed.step]
                for row in later:
                    row["trained_step"] = None
                # the format may change on resume: one folder holds one
                target = path.with_suffix(f".{self._kind}")
                if kept and (later or len(kept) < len(rows) or target != path):
                    self._write(target, kept)
                if not kept or target != path:
                    path.unlink()
        self._widen()

    def _widen(self) -> None:
        """Gives all files the columns of each: readers take the first file's for those of all."""
        if self._kind != "parquet":
            return
        files = [path for split in SPLITS for path in self._files(split)]
        schemas = {path: pyarrow.parquet.read_schema(path).names for path in files}
        for name in (name for names in schemas.values() for name in names):
            self._types.setdefault(name, pyarrow.string())
        for path in files:
            if schemas[path] != list(self._types):
                self._write(path, self._read(path))
        self._columns = len(self._types)

    def _further_columns(self) -> list[str]:
        """Columns of the files on disk that are not this run's own."""
        names: list[str] = []
        for path in (
            path for split in SPLITS for path in self._files(split, kinds=("jsonl", "parquet"))
        ):
            if path.suffix == ".parquet":
                names += pyarrow.parquet.read_schema(path).names
            else:
                with path.open(encoding="utf-8") as file:
                    names += json.loads(file.readline() or "{}")
        return [name for name in dict.fromkeys(names) if name not in self._types]

    def _files(self, split: str, kinds: Sequence[str] | None = None) -> list[pathlib.Path]:
        """Oldest first."""
        return sorted(
            path
            for kind in kinds or (self._kind,)
            for path in (self._folder / split).glob(f"from-step-*.{kind}")
        )

    def _read(self, path: pathlib.Path) -> list[dict[str, Any]]:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path).to_pylist()
        with path.open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def _write(self, path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
        temporary = path.with_name(f".{path.name}.tmp")
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".parquet":
                arrays = {
                    name: pyarrow.array([row.get(name) for row in rows], kind)
                    for name, kind in self._types.items()
                }
                pyarrow.parquet.write_table(pyarrow.table(arrays), temporary)
            else:
                with temporary.open("w", encoding="utf-8") as file:
                    for row in rows:
                        file.write(
                            json.dumps(
                                {name: row.get(name) for name in self._types}, ensure_ascii=False
                            )
                            + "\n"
                        )
            os.replace(temporary, path)


def _typed(values: Sequence[Any], kind: pyarrow.DataType) -> list[Any]:
    """Values of a column; NaN becomes null (JSON has none), texts lose what UTF-8 cannot hold."""
    if kind == pyarrow.string():
        return [_text(value) for value in values]
    if kind == pyarrow.float64():
        return [None if value is None or value != value else float(value) for value in values]
    return list(values)


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _text_bytes(rows: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(row["prompt"] or "") + len(row["completion"] or "") + 64 for row in rows)


def _by_step(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    block: list[dict[str, Any]] = []
    for row in rows:
        if block and row["step"] != block[-1]["step"]:
            yield block
            block = []
        block.append(row)
    if block:
        yield block


def _is_before(row: Mapping[str, Any], resumed: Resumed) -> bool:
    """Whether a row is older than a checkpoint, which holds what waits for a batch to be filled."""
    if row["generation_batch"] is None:
        return row["step"] in resumed.evaluated
    return bool(row["generation_batch"] < resumed.draws)
