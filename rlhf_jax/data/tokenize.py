"""A split to token arrays: in chunks, in parallel, kept on disk under a fingerprint.

`tokenize_split` is the way through: from the cache under `data_fingerprint`, or in chunks over
worker processes. Per chunk `tokenize_chunk` renders the examples (`encode.render_all`), fits them
into the length (`_fit`) and counts what is left out; `_join` puts the chunks together.
"""

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple, cast

import numpy as np
from rich.console import Console
from rich.progress import track

from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.digest import StaleError
from rlhf_jax.data.encode import (
    encode_rows,
    fit,
    flatten,
    num_prefix,
    prompt_budget,
    render,
    render_all,
)
from rlhf_jax.data.errors import BadRow, DataError, Dropped
from rlhf_jax.data.examples import Split, load_examples
from rlhf_jax.data.kinds import (
    Example,
    JudgedExample,
    Kind,
    PairExample,
    TextExample,
    TokenExample,
)
from rlhf_jax.data.marks import check_marks, message_notes
from rlhf_jax.data.messages import Message
from rlhf_jax.data.notes import count_notes, warn, warn_shortened
from rlhf_jax.data.processes import WorkerDiedError, map_in_processes
from rlhf_jax.data.raw_rows import source_fingerprint
from rlhf_jax.data.shorten import shorten_chat
from rlhf_jax.data.sources import eval_source, train_source
from rlhf_jax.data.spans import EncodedRow, check_stops
from rlhf_jax.data.templates import apply_template, settle_calls
from rlhf_jax.data.token_rows import TokenizedSet, read_rows, write_rows
from rlhf_jax.data.tokenizer import FastTokenizer
from rlhf_jax.data.turns import REWRITTEN, Note, Rendered

logger = logging.getLogger(__name__)

_CHUNK = 512
_VERSION = 6  # of the cached arrays; raise it when their meaning changes
# the content is hashed instead
_PLACE = ("path", "split", "subset", "data_dir", "eval_path", "eval_split")
_SHAPE = (
    "num_proc",
    "shuffle",
    "packing",
    "num_buckets",
    "pad_multiple",
    "buckets",
    "length_window",
)


class _Chunk(NamedTuple):
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray]
    margins: list[float]
    labels: list[bool]
    dropped: Counter[str]
    bad: list[tuple[str, str, str]]
    shortened: int
    notes: list[tuple[str, Note]]
    unrolled: tuple[int, int]


Offline = TextExample | PairExample | JudgedExample
Encoded = tuple[list[int], list[EncodedRow]]
"""(prompt, completions)"""


def data_fingerprint(config: DataConfig, tokenizer: FastTokenizer, kind: Kind, split: Split) -> str:
    """Hash of all that decides the examples and their ids: file contents, options, tokenizer.

    Order, batch size and padding are not part of it: values cached per example stay valid when
    those change.
    """
    source = (eval_source(config) if split == "eval" else None) or train_source(config)
    options = {
        key: value
        for key, value in dataclasses.asdict(config).items()
        if key not in _PLACE + _SHAPE
    }
    # A stop ends answers that are trained on as they stand in the data; prompts are the same
    # whatever ends their completions.
    tokenizer = tokenizer.without_stops() if kind == "prompts" else tokenizer
    identity = [tokenizer.fingerprint(), list(tokenizer.stop_ids)]
    content = [_VERSION, kind, split, source_fingerprint(source, kind), *identity, options]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def tokenize_split(
    config: DataConfig,
    tokenizer: FastTokenizer,
    *,
    kind: Kind,
    split: Split,
    cache_dir: str | pathlib.Path | None,
    fingerprint: str,
) -> TokenizedSet:
    """Reads, validates and tokenises a split, or maps arrays of an earlier run from `cache_dir`.

    Raises:
        DataError: as `load_examples`; a conversation that the chat template refuses; or nothing
          fits the length limits.
    """
    folder = None if cache_dir is None else pathlib.Path(cache_dir) / f"tokens-{fingerprint[:32]}"
    if folder is not None and folder.is_dir():
        try:
            result = read_rows(folder)
        except StaleError as reason:
            logger.warning(
                "tokens of %s (%s) in %s are damaged (%s): made anew",
                config.path,
                split,
                folder,
                reason,
            )
            shutil.rmtree(folder)
        else:
            logger.info("tokens of %s (%s) read from %s", config.path, split, folder)
            _warn(result, config, f"{config.path} ({split})")
            return result
    examples = load_examples(config, kind=kind, split=split)
    if any(isinstance(example.prompt, list) for example in examples.rows):
        check_stops(tokenizer, config)
    start = time.perf_counter()
    result = _join(
        list(_tokenize_chunks(examples.rows, tokenizer, config)),
        config,
        examples.skipped,
        examples.name,
    )
    logger.info(
        "%s (%s): %d examples, %d tokens, tokenised in %.1f s; %d shortened, left out: %s",
        *(
            examples.name,
            split,
            len(examples.rows),
            len(result.tokens),
            time.perf_counter() - start,
            result.shortened,
        ),
        ", ".join(f"{reason} {count}" for reason, count in sorted(result.skipped.items()))
        or "none",
    )
    _warn(result, config, f"{examples.name} ({split})")
    if folder is not None:
        try:
            write_rows(folder, result)
        # the tokens are in memory, so a full disk costs the next start its time and nothing more
        except OSError as error:
            logger.warning(
                "tokens are not kept in %s (%s): the next start makes them anew", folder, error
            )
    return result


def _warn(result: TokenizedSet, config: DataConfig, name: str) -> None:
    conversations, rows = result.unrolled
    if conversations:
        logger.info("%s: unrolled: %d conversations into %d rows", name, conversations, rows)
    warn(result.notes, name)
    warn_shortened(
        result.shortened, len(result.margins), name, f"data.max_length {config.max_length}"
    )


def tokenize_chunk(examples: list[Example], tokenizer: FastTokenizer, config: DataConfig) -> _Chunk:
    """Renders, encodes and fits some examples; bad ones are returned, not raised."""
    rendered: list[Rendered] = []
    kept: list[Offline | TokenExample] = []
    bad = []
    notes: list[tuple[str, Note]] = []
    unrolled: list[int] = []
    dropped: Counter[str] = Counter()
    for example in examples:
        try:
            check_marks(example, config)
            parts = _render(example, tokenizer, config)
        except BadRow as error:
            bad.append((example.where, error.reason, error.detail))
            continue
        except Dropped as reason:
            dropped[reason.args[0]] += 1
            continue
        notes += [(example.where, note) for note in message_notes(example, tokenizer)]
        kept += [part for part, _ in parts]
        rendered += [row for _, row in parts if row is not None]
        notes += [
            (example.where, note) for _, row in parts if row is not None for note in row.notes
        ]
        unrolled += [len(parts)] if len(parts) > 1 else []
    rows: list[EncodedRow] = []
    margins: list[float] = []
    labels: list[bool] = []
    shortened = 0
    encoded = iter(encode_rows(rendered, tokenizer, config))
    for example in kept:
        whole = (
            ([], [EncodedRow(example.ids, example.trained)])
            if isinstance(example, TokenExample)
            else next(encoded)
        )
        try:
            fitted, is_cut = _fit(example, whole, tokenizer, config)
        except Dropped as reason:
            dropped[reason.args[0]] += 1
            continue
        rows += fitted
        shortened += is_cut
        margin = example.margin if isinstance(example, PairExample) else None
        margins.append(float("nan") if margin is None else margin)
        labels.append(isinstance(example, JudgedExample) and example.label)
    counted = (len(unrolled), sum(unrolled))
    return _Chunk(flatten(rows), margins, labels, dropped, bad, shortened, notes, counted)


def _render(
    example: Example, tokenizer: FastTokenizer, config: DataConfig
) -> list[tuple[Offline | TokenExample, Rendered | None]]:
    """An example as rows that are examples again; token ids need no rendering."""
    # whatever is trained: no row for each answer
    if isinstance(example, TextExample) and config.train_on == "all":
        rendered = render(example, tokenizer)
        return [
            (
                example,
                rendered._replace(
                    notes=tuple(note for note in rendered.notes if note.kind != REWRITTEN)
                ),
            )
        ]
    if isinstance(example, TextExample):
        return [*render_all(example, tokenizer)]
    if isinstance(example, PairExample | JudgedExample):
        return [(example, render(example, tokenizer))]
    if not isinstance(example, TokenExample):
        raise TypeError(f"{type(example).__name__} has no completion to train on")
    largest = max(example.ids)
    if largest >= tokenizer.vocab_size or min(example.ids) < 0:
        raise BadRow(
            "unknown token",
            f"column 'input_ids' holds {largest}, the tokenizer has ids up to "
            f"{tokenizer.vocab_size - 1}",
        )
    return [(example, None)]


def _fit(
    example: Offline | TokenExample, encoded: Encoded, tokenizer: FastTokenizer, config: DataConfig
) -> tuple[list[EncodedRow], bool]:
    """The example within the length limits; a conversation loses whole turns."""
    prompt, completions = encoded
    is_chat = isinstance(example.prompt, list)
    # An unrelated answer takes nothing away from the row that is trained on.
    deciding = 1 if isinstance(example, JudgedExample) else None
    budget = prompt_budget(prompt, completions[:deciding], config)
    if is_chat and config.row_truncation == "keep_end" and len(prompt) > budget:
        prompt, completions = _without_turns(cast(Offline, example), budget, tokenizer, config)
        return fit(prompt, completions, config, deciding=deciding)[0], True
    start = num_prefix(prompt, tokenizer)
    return fit(prompt, completions, config, num_prefix=start, deciding=deciding)


def _without_turns(
    example: Offline, budget: int, tokenizer: FastTokenizer, config: DataConfig
) -> Encoded:

    def measure(messages: list[Message]) -> int:
        settled = settle_calls(tokenizer, messages, example.chat)
        return len(
            tokenizer.encode(
                apply_template(tokenizer, settled, example.chat, add_generation_prompt=True)
            )
        )

    try:
        shorter = shorten_chat(cast(list[Message], example.prompt), budget, tokenizer, measure)
        if shorter is None:
            raise Dropped("prompt too long")
        rendered = _render(example._replace(prompt=shorter), tokenizer, config)
    except BadRow:  # the template takes the conversation as a whole only
        raise Dropped("prompt too long") from None
    [result] = encode_rows([cast(Rendered, row) for _, row in rendered[-1:]], tokenizer, config)
    if len(result[0]) > budget:
        raise Dropped("prompt too long")
    return result


def _tokenize_chunks(
    rows: list[Example], tokenizer: FastTokenizer, config: DataConfig
) -> Iterator[_Chunk]:
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    num_proc = min(config.num_proc, len(chunks))
    if num_proc > 1:
        done = map_in_processes(
            _work, chunks, num_proc, start=_start_worker, setup=_worker_setup(tokenizer, config)
        )
        try:
            yield from _progress(done, len(chunks))
        except WorkerDiedError as how:
            raise DataError(
                f"a tokenisation process died ({how}): guard the script with if __name__ == "
                "'__main__', see that the memory suffices, or set data.num_proc=1"
            ) from None
    else:
        yield from _progress(
            (tokenize_chunk(chunk, tokenizer, config) for chunk in chunks), len(chunks)
        )


def _progress(chunks: Iterator[_Chunk], total: int) -> Iterator[_Chunk]:
    console = Console(stderr=True)
    is_shown = sys.stderr.isatty() and total > 4
    yield from track(
        chunks, "tokenising", total=total, console=console, transient=True, disable=not is_shown
    )


_worker: dict = {}  # of a worker process only: its tokenizer and options


def _worker_setup(tokenizer: FastTokenizer, config: DataConfig) -> tuple:
    return tokenizer, config


def _start_worker(tokenizer: FastTokenizer, config: DataConfig) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker["tokenizer"] = tokenizer
    _worker["config"] = config


def _work(chunk: list[Example]) -> _Chunk:
    return tokenize_chunk(chunk, _worker["tokenizer"], _worker["config"])


def _join(
    chunks: list[_Chunk], config: DataConfig, skipped: dict[str, int], name: str
) -> TokenizedSet:
    bad = [row for chunk in chunks for row in chunk.bad]
    if bad and config.on_error == "strict":
        where, _, detail = bad[0]
        raise DataError(
            f"{where}: {detail} (bad row 1 of {len(bad)}; data.on_error=skip leaves them out)"
        )
    if bad:
        logger.warning(
            "%s: %d bad rows left out; the first: %s: %s", name, len(bad), bad[0][0], bad[0][2]
        )
    counts = Counter(skipped) + Counter(reason for _, reason, _ in bad)
    for chunk in chunks:
        counts += chunk.dropped
    lengths = np.concatenate([chunk.arrays[2] for chunk in chunks])
    if not len(lengths):
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))
        raise DataError(
            f"no row of {name} can be used with max_length {config.max_length} and truncation "
            f"{config.row_truncation!r}: {reasons}"
        )
    return TokenizedSet(
        tokens=np.concatenate([chunk.arrays[0] for chunk in chunks]),
        trained=np.concatenate([chunk.arrays[1] for chunk in chunks]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        margins=np.array([margin for chunk in chunks for margin in chunk.margins], np.float32),
        labels=np.array([label for chunk in chunks for label in chunk.labels], np.bool_),
        skipped=dict(counts),
        shortened=sum(chunk.shortened for chunk in chunks),
        notes=count_notes(note for chunk in chunks for note in chunk.notes),
        unrolled=(
            sum(chunk.unrolled[0] for chunk in chunks),
            sum(chunk.unrolled[1] for chunk in chunks),
        ),
    )
