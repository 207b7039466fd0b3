"""From a source to validated examples: bad rows strict or skipped, and the held-out split."""

import hashlib
import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from rlhf_jax.data.cells import ASSISTANT
from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.errors import BadRow, DataError
from rlhf_jax.data.formats import READABLE, detect_format, make_example, rename_columns
from rlhf_jax.data.kinds import (
    Example,
    JudgedExample,
    Kind,
    PairExample,
    TextExample,
    TokenExample,
)
from rlhf_jax.data.messages import Content
from rlhf_jax.data.raw_rows import read_rows, source_fingerprint
from rlhf_jax.data.sources import RawRow, Source, eval_source, train_source
from rlhf_jax.data.transcripts import as_conversation
from rlhf_jax.data.unpaired import taken_apart, with_unrelated
from rlhf_jax.data.wrap import wrap_examples
from rlhf_jax.fields import documented

logger = logging.getLogger(__name__)

Split: TypeAlias = Literal["train", "eval"]
_SAMPLE = 100  # rows looked at to detect the format
_Placed = TypeVar("_Placed", bound=RawRow | Example)


@documented
class ExampleSet(NamedTuple):
    """Validated rows of one split."""

    rows: list[Example]
    skipped: dict[str, int]
    """Bad rows left out, by reason."""
    name: str


def load_examples(config: DataConfig, *, kind: Kind, split: Split = "train") -> ExampleSet:
    """Reads and validates the rows of a split.

    The held-out share (`eval_fraction`, `eval_size`) is cut prompt by prompt: rows with the same
    prompt are never on both sides. Prompts are ranked by a hash of their text and `eval_seed`, so
    SFT, reward model, DPO and online runs that read the same rows hold out the same prompts,
    whatever is put around them (`rlhf_jax.data.wrap`). (A bare `text` is its own prompt; a bare
    transcript counts up to its last answer.)

    Args:
        config: where from and how.
        kind: what the algorithm needs: "text" (SFT), "pairs" (reward model, DPO), "unpaired" (KTO),
          "prompts" (PPO, GRPO, DAPO).
        split: "train" or "eval".

    Raises:
        DataError: nothing to read, columns that do not fit, a bad row under `on_error="strict"`, no
            rows left, or split="eval" when no held-out rows are configured.
    """
    if kind not in READABLE:
        raise DataError(f"kind {kind!r} is not one of {', '.join(READABLE)}")
    examples = _read_split(config, kind, split)
    if config.transcript:  # behind the split, which so is the same as that of the bare texts
        examples = _read_transcripts(examples, config)
    rows = wrap_examples(examples.rows, config)
    if kind == "unpaired":
        rows = with_unrelated(rows, examples.name)
    return examples._replace(rows=rows)


def iterate_texts(config: DataConfig, *, kind: Kind, split: Split = "train") -> Iterator[str]:
    """Every text of a split, to train a tokenizer on: prompts, completions and message contents."""
    for example in load_examples(config, kind=kind, split=split).rows:
        contents: list[Content | None]
        if isinstance(example, TokenExample):
            raise DataError(
                f"{example.where}: rows of token ids hold no text to train a tokenizer on: name "
                "the one they are from"
            )
        if isinstance(example, TextExample):
            contents = [example.prompt, example.completion]
        elif isinstance(example, PairExample):
            contents = [example.prompt, example.chosen, example.rejected]
        elif isinstance(example, JudgedExample):
            contents = [example.prompt, example.completion]
        else:
            contents = [example.prompt]
        for content in contents:
            if isinstance(content, str):
                yield content
            elif content is not None:
                yield from (
                    message["content"] for message in content if message["content"] is not None
                )


def _read_split(config: DataConfig, kind: Kind, split: Split) -> ExampleSet:
    source = None if split == "train" else eval_source(config)
    if source is not None:
        return _read_examples(source, config, kind)
    if not _is_cut(config):
        if split == "train":
            return _read_examples(train_source(config), config, kind)
        raise DataError(
            "no held-out rows: set one of data.eval_path, data.eval_split, data.eval_fraction, "
            "data.eval_size"
        )
    content = (config, kind, source_fingerprint(train_source(config), kind))
    if split == "eval" and _held_out and _held_out[0][0] == content:
        return _held_out.pop()[1]
    examples = _read_examples(train_source(config), config, kind)
    train, held_out = (examples._replace(rows=rows) for rows in _cut(examples, config))
    if split == "eval":
        return held_out
    _held_out[:] = [(content, held_out)]
    return train


_held_out: list[tuple[tuple[DataConfig, Kind, str], ExampleSet]] = []
"""Held-out rows of the training rows that were read last, until they are asked for: a run reads
both splits, one behind the other, from the same rows."""


def _read_transcripts(examples: ExampleSet, config: DataConfig) -> ExampleSet:
    rows, bad = _made(examples.rows, as_conversation, config, examples.name, "transcript")
    return ExampleSet(rows, dict(Counter(examples.skipped) + bad), examples.name)


def _made(
    given: Iterable[_Placed],
    make: Callable[[_Placed], Example],
    config: DataConfig,
    name: str,
    what: str,
) -> tuple[list[Example], Counter[str]]:
    """(what could be made of each, how many could not by reason).

    Raises:
        DataError: a bad one under `data.on_error=strict`, or nothing could be made.
    """
    rows: list[Example] = []
    first: tuple[str, BadRow] | None = None
    bad: Counter[str] = Counter()
    for one in given:
        try:
            rows.append(make(one))
        except BadRow as error:
            bad[error.reason] += 1
            first = first or (one.where, error)
    if first is not None:
        _report(first, bad, config, name)
    if not rows:
        raise DataError(f"{name} has no usable {what}: {_counts(bad)}")
    return rows, bad


def _is_cut(config: DataConfig) -> bool:
    return config.eval_fraction > 0 or config.eval_size > 0


def _read_examples(source: Source, config: DataConfig, kind: Kind) -> ExampleSet:
    raw = itertools.islice(read_rows(source, kind), config.max_examples)
    first = list(itertools.islice(raw, _SAMPLE))
    if not first:
        raise DataError(f"{source.name} is empty: it holds no rows")
    _check_mapping(first, config.columns, source.name)
    head = [_rename(row, config.columns) for row in first]
    renamed = (_rename(row, config.columns) for row in raw)
    readable = [row.columns for row in head if row.columns is not None]
    form = detect_format(readable, kind, config, source.name) if readable else ""

    def read(row: RawRow) -> Example:
        if row.columns is None:
            raise row.error or BadRow("unreadable", "the row cannot be read")
        return make_example(row.columns, form, kind, row.where)

    rows, skipped = _made(itertools.chain(head, renamed), read, config, source.name, "row")
    if kind == "unpaired":
        rows = taken_apart(rows)
    logger.info("%s: %d rows read as %s (%s)", source.name, len(rows), kind, form)
    return ExampleSet(rows, dict(skipped), source.name)


def _rename(row: RawRow, mapping: Mapping[str, str]) -> RawRow:
    return (
        row
        if row.columns is None or not mapping
        else row._replace(columns=rename_columns(row.columns, mapping))
    )


def _check_mapping(rows: list[RawRow], mapping: Mapping[str, str], name: str) -> None:
    there = [row.columns for row in rows if row.columns is not None]
    for ours, theirs in mapping.items():
        if there and not any(ours in rename_columns(row, {ours: theirs}) for row in there):
            found = ", ".join(dict.fromkeys(column for row in there for column in row)) or "none"
            raise DataError(
                f"data.columns maps {ours} to {theirs!r}, which {name} does not have: its columns "
                f"are {found}"
            )


def _report(
    first: tuple[str, BadRow], skipped: Counter[str], config: DataConfig, name: str
) -> None:
    where, error = first
    total = sum(skipped.values())
    if config.on_error == "strict":
        raise DataError(
            f"{where}: {error.detail} (bad row 1 of {total}; data.on_error=skip leaves them out)"
        )
    logger.warning(
        "%s: %d bad rows left out: %s; the first: %s: %s",
        name,
        total,
        _counts(skipped),
        where,
        error.detail,
    )


def _counts(skipped: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(skipped.items()))


def _cut(examples: ExampleSet, config: DataConfig) -> tuple[list[Example], list[Example]]:
    """(training rows, held-out rows), each in storage order."""
    keys = [_prompt_key(example, config.eval_seed) for example in examples.rows]
    sizes = Counter(keys)
    wanted = config.eval_size or max(1, round(config.eval_fraction * len(keys)))
    held_out: set[bytes] = set()
    count = 0
    for key in sorted(sizes):
        if count >= wanted:
            break
        held_out.add(key)
        count += sizes[key]
    if count >= len(keys):
        raise DataError(
            f"holding out {wanted} of the {len(keys)} rows of {examples.name} leaves none to train "
            "on"
        )
    train = [
        example for example, key in zip(examples.rows, keys, strict=True) if key not in held_out
    ]
    return train, [
        example for example, key in zip(examples.rows, keys, strict=True) if key in held_out
    ]


def _prompt_key(example: Example, seed: int) -> bytes:
    prompt: Content | list[int] | None = example.prompt
    if isinstance(example, TokenExample):
        prompt = example.ids
    if isinstance(example, TextExample) and prompt is None:
        text = str(example.completion)
        prompt = text[: text.rindex(ASSISTANT) + len(ASSISTANT)] if ASSISTANT in text else text
    return hashlib.sha256(json.dumps([seed, prompt], sort_keys=True, default=str).encode()).digest()
