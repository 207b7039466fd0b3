"""Completions of a run for looking at: a bounded part of the table on disk, and what was left
out."""

import json
import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet

from rlhf_jax.io import COMPLETION_COLUMNS
from rlhf_jax.rewards.config import RewardConfig
from rlhf_jax.rewards.judging import make_judge
from rlhf_jax.runs.report.reading import Run

_log = logging.getLogger(__name__)
SPLITS = ("train", "eval")
LONGEST = 3000
"""Characters of a prompt or a completion that are kept; of a longer one two thirds from its
beginning, the rest from its end."""


class Completions(NamedTuple):
    """Some of a run's completions."""

    rows: list[dict[str, Any]]
    """As in the files, and `right` (True, False, or None where no reward says so)."""
    rewards: list[str]
    """Names of the columns that are rewards."""
    total: int
    """Completions on disk."""
    notes: list[str]
    """What was left out, a sentence each."""


class Limits(NamedTuple):
    """How much is taken."""

    rows: int = 2000
    characters: int = 2_000_000
    """Of prompts and completions, each prompt counted once."""
    rows_per_step: int = 64


def read_completions(
    run: Run, limits: Limits, *, step: int | None = None, split: str | None = None
) -> Completions:
    """Completions of steps that are spread evenly over the run, first and last included.

    Args:
      run: whose folder is read; one without completions gives none.
      limits: how much is taken at most.
      step: of this step alone.
      split: of this split alone.
    """
    notes: list[str] = []
    files = [
        (path, where)
        for where in SPLITS
        if split in (None, where)
        for path in completion_files(run.path, where)
    ]
    counts: dict[tuple[int, str], int] = {}
    readable = []
    for path, where in files:
        numbers = _steps(path, notes)
        if numbers:
            readable.append((path, where))
        for number in numbers:
            counts[number, where] = counts.get((number, where), 0) + 1
    asked = [key for key in counts if step is None or key[0] == step]
    names = [reward.label for reward in rewards_of(run)]
    total = sum(counts.values())
    chosen = _spread(asked, counts, limits)
    rows: list[dict[str, Any]] = []
    for path, where in readable:
        # An evaluation of 1000 prompts is not whole here; those that are, are the same each time.
        rows += _taken(path, {key[0] for key in chosen if key[1] == where}, limits, notes)
    rows = _bounded(rows, chosen, limits.characters)
    _judge(run, rows)
    if not rows:
        return Completions([], names, total, notes)
    shown = {row["step"] for row in rows}
    there = sum(counts[key] for key in asked)
    if len(rows) < there:
        steps = len({key[0] for key in asked})
        notes.append(
            f"Shown are {len(rows):,} of {there:,} completions, of {len(shown):,} of {steps:,} "
            "steps that have some; all are in completions/ of the run folder."
        )
    cut = sum(row["cut"] for row in rows)
    if cut:
        many = "1 text is" if cut == 1 else f"{cut:,} texts are"
        notes.append(f"{many} longer than {LONGEST:,} characters and cut in the middle.")
    return Completions(rows, [name for name in names if name in rows[0]], total, notes)


def completion_files(run_dir: pathlib.Path, split: str) -> list[pathlib.Path]:
    """Files of a split, oldest first."""
    folder = run_dir / "completions" / split
    return sorted(
        path for path in folder.glob("from-step-*") if path.suffix in (".parquet", ".jsonl")
    )


def rewards_of(run: Run) -> list[RewardConfig]:
    """The rewards of a run's configuration, as far as their names and functions go."""
    listed = run.tree.get("rewards")
    found = []
    for item in listed if isinstance(listed, list) else []:
        if isinstance(item, dict) and isinstance(item.get("function"), str):
            name = item.get("name")
            found.append(RewardConfig(function=item["function"], name=name or None))
    return found


def _judge(run: Run, rows: list[dict[str, Any]]) -> None:
    """Says of each row whether it is right, as the run's own metrics do."""
    rewards = rewards_of(run)
    named = run.tree.get("algorithm", {}).get("accuracy_reward")
    for row in rows:
        row["right"] = None
    try:
        judge = make_judge(rewards, named)
    except ValueError:  # a judge that is not among the rewards
        return
    if not judge.says or not rows:
        return
    columns = [[_float(row.get(name)) for name in judge.names] for row in rows]
    per_reward = np.array(columns, np.float32).reshape(len(rows), -1)
    total = np.array([_float(row.get("reward")) for row in rows], np.float32)
    verdict = judge.correct(total, per_reward, judge.learn(total, per_reward, {}))
    for row, right, judged in zip(rows, verdict.right, verdict.judged, strict=True):
        row["right"] = bool(right) if judged else None


def _spread(
    asked: Sequence[tuple[int, str]], counts: dict[tuple[int, str], int], limits: Limits
) -> list[tuple[int, str]]:
    """As many steps as the limit of rows allows, the most telling first: of each split the last,
    the first, the middle, the quarters and so on."""
    splits = {split: sorted(key for key in asked if key[1] == split) for split in SPLITS}
    orders = [list(_refining(keys)) for keys in splits.values()]
    longest = max(map(len, orders))
    chosen = []
    left = limits.rows
    for place in range(longest):
        for order in orders:
            if place < len(order) and left > 0:
                chosen.append(order[place])
                left -= min(counts[order[place]], limits.rows_per_step)
    return chosen


def _refining(keys: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Last, first, middle, quarters, and so on: wherever it is cut off, the keys lie evenly."""
    seen: set[int] = set()
    last = len(keys) - 1
    parts = 1
    while len(seen) < len(keys):
        for part in range(parts, -1, -1):
            place = round(part * last / parts)
            if place not in seen:
                seen.add(place)
                yield keys[place]
        parts *= 2


def _steps(path: pathlib.Path, notes: list[str]) -> list[int]:
    """The step of every row of a file; none where it cannot be read."""
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path, columns=["step"])["step"].to_pylist()
        with path.open(encoding="utf-8") as file:
            return [json.loads(line)["step"] for line in file]
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        notes.append(f"{path.name} cannot be read and is left out: {' '.join(str(error).split())}")
        return []


def _taken(
    path: pathlib.Path, steps: set[int], limits: Limits, notes: list[str]
) -> list[dict[str, Any]]:
    """The first rows of each of some steps in a file."""
    if not steps:
        return []
    found: list[dict[str, Any]] = []
    taken: dict[int, int] = {}
    try:
        for row in _rows(path):
            number = taken.get(row["step"], 0)
            if row["step"] in steps and number < limits.rows_per_step:
                taken[row["step"]] = number + 1
                found.append(_shortened(row))
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        _log.warning("%s cannot be read: %s", path, error)
        notes.append(f"{path.name} cannot be read to its end.")
    return found


def _rows(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        # file by file, block by block: a table of texts as Python objects is many times its size
        with pyarrow.parquet.ParquetFile(path) as file:
            for block in file.iter_batches(1024):
                yield from block.to_pylist()
    else:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def _shortened(row: dict[str, Any]) -> dict[str, Any]:
    """A row with texts of bounded length; `cut` says how many were longer."""
    texts = {
        name: value
        for name, value in row.items()
        if isinstance(value, str) and name != "split" and len(value) > LONGEST
    }
    short = {name: shorten(value, LONGEST) for name, value in texts.items()}
    return row | short | {"cut": len(short)}


def shorten(text: str, longest: int) -> str:
    """Beginning and end of a long text, and how much stood between."""
    if len(text) <= longest:
        return text
    after = longest // 3
    before = longest - after
    return f"{text[:before]}\n… {len(text) - longest:,} characters left out …\n{text[-after:]}"


def _bounded(
    rows: list[dict[str, Any]], chosen: Sequence[tuple[int, str]], characters: int
) -> list[dict[str, Any]]:
    """Rows of the most telling steps, until their texts have so many characters."""
    by_step: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in rows:
        by_step.setdefault((row["step"], row["split"]), []).append(row)
    prompts: set[str] = set()
    kept: list[dict[str, Any]] = []
    for key in chosen:
        for row in by_step.get(key, []):
            prompt = str(row.get("prompt") or "")
            further = [
                len(value)
                for name, value in row.items()
                if isinstance(value, str) and name not in ("prompt", "split")
            ]
            characters -= sum(further) + (0 if prompt in prompts else len(prompt))
            if characters < 0:
                return _ordered(kept)
            prompts.add(prompt)
            kept.append(row)
    return _ordered(kept)


def _ordered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["step"], row["split"]))


def extra_columns(rows: Sequence[dict[str, Any]], rewards: Sequence[str]) -> list[str]:
    """Columns that reward functions logged."""
    known = {*COMPLETION_COLUMNS, *rewards, "right", "cut"}
    return list(dict.fromkeys(name for row in rows for name in row if name not in known))


def _float(value: Any) -> float:
    return float("nan") if value is None else float(value)
