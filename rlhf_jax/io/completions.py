"""Sampled completions on disk, one file per step, and a few of them in the log."""

import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyarrow
import pyarrow.parquet

_log = logging.getLogger(__name__)
SHOWN_CHARACTERS = 200
"""Of a prompt or completion in the log; the files hold all."""


def save_completions(
    folder: pathlib.Path,
    step: int,
    columns: Mapping[str, Sequence[Any]],
    *,
    kind: Literal["jsonl", "parquet"],
    split: str = "train",
) -> pathlib.Path:
    """Writes the completions of a step; a file of the same step (of an interrupted session) is replaced.

    Args:
      folder: made when absent.
      step: names the file.
      columns: name -> one value per completion; texts, numbers or None.
      kind: format.
      split: "train" or "eval", in the file's name.

    Returns:
      The file, such as ``train-000010.parquet``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}-{step:06d}.{kind}"
    temporary = path.with_name(f".{path.name}.tmp")
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table(dict(columns)), temporary)
    else:
        rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    temporary.replace(path)
    return path


def log_completions(
    step: int, prompts: Sequence[str], completions: Sequence[str], rewards: Sequence[float], *, count: int
) -> None:
    """Shows some completions with their rewards in the log: the first of as many different prompts.

    Args:
      step: for the heading.
      prompts: one per completion.
      completions: texts.
      rewards: total rewards.
      count: how many.
    """
    first = {prompt: row for row, prompt in reversed(list(enumerate(prompts)))}
    for row in sorted(first.values())[:count]:
        prompt, completion = (_short(text) for text in (prompts[row], completions[row]))
        _log.info("step %d sample: reward %.3g  %s -> %s", step, rewards[row], prompt, completion)


def _short(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= SHOWN_CHARACTERS else shown[: SHOWN_CHARACTERS // 2] + " ... " + shown[-SHOWN_CHARACTERS // 2 :]
