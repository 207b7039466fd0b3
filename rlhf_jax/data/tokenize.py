"""A split to token arrays: in chunks, in parallel, with progress, kept on disk under a fingerprint."""

import concurrent.futures
import concurrent.futures.process
import dataclasses
import hashlib
import json
import logging
import multiprocessing
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.digest import StaleError, file_digest
from rlhf_jax.data.encode import Dropped, EncodedRow, Rendered, encode_rows, fit, flatten, num_prefix, render
from rlhf_jax.data.errors import BadRow, DataError
from rlhf_jax.data.examples import Split, load_examples
from rlhf_jax.data.formats import Example, Kind, PairExample, TextExample
from rlhf_jax.data.sources import eval_source, source_fingerprint, train_source
from rlhf_jax.data.tokenizer import FastTokenizer

logger = logging.getLogger(__name__)

_CHUNK = 512
_VERSION = 2  # of the cached arrays; raise it when their meaning changes
_PLACE = ("path", "split", "subset", "data_dir", "eval_path", "eval_split")  # the content is hashed instead
_SHAPE = ("num_proc", "shuffle", "packing", "num_buckets", "pad_multiple", "buckets", "length_window")
_ARRAYS = ("tokens", "trained", "offsets", "margins")


class TokenizedSet(NamedTuple):
    """Token rows of a split, end to end. An example has one row (text) or two in turn (chosen, rejected)."""

    tokens: np.ndarray
    """int32 [sum of lengths]"""
    trained: np.ndarray
    """bool, like `tokens`."""
    offsets: np.ndarray
    """int64 [rows + 1]: row r is `tokens[offsets[r]:offsets[r + 1]]`."""
    margins: np.ndarray
    """float32 [examples], NaN where none was given."""
    skipped: dict[str, int]
    """Examples left out, by reason: bad rows and those that do not fit."""
    shortened: int
    """Examples cut to the length limits."""


class _Chunk(NamedTuple):
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray]
    margins: list[float]
    dropped: Counter[str]
    bad: list[tuple[str, str, str]]
    shortened: int


def data_fingerprint(config: DataConfig, tokenizer: FastTokenizer, kind: Kind, split: Split) -> str:
    """Hash of everything that decides the examples and their ids: file contents, options, tokenizer.

    Order, batch size and padding are not part of it: values cached per example stay valid when those change.
    """
    source = (eval_source(config) if split == "eval" else None) or train_source(config)
    options = {key: value for key, value in dataclasses.asdict(config).items() if key not in _PLACE + _SHAPE}
    content = [_VERSION, kind, split, source_fingerprint(source, kind), tokenizer.fingerprint(), options]
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
    """Reads, validates and tokenises a split, or maps the arrays of an earlier run from `cache_dir`.

    Raises:
        DataError: as `load_examples`; a conversation that the chat template refuses; or nothing fits the length limits.
    """
    folder = None if cache_dir is None else pathlib.Path(cache_dir) / f"tokens-{fingerprint[:32]}"
    if folder is not None and folder.is_dir():
        try:
            result = _read_cache(folder)
        except StaleError as reason:
            logger.warning("tokens of %s (%s) in %s are damaged (%s): made anew", config.path, split, folder, reason)
            shutil.rmtree(folder)
        else:
            logger.info("tokens of %s (%s) read from %s", config.path, split, folder)
            return result
    examples = load_examples(config, kind=kind, split=split)
    start = time.perf_counter()
    result = _join(list(_tokenize_chunks(examples.rows, tokenizer, config)), config, examples.skipped, examples.name)
    logger.info(
        "%s (%s): %d examples, %d tokens, tokenised in %.1f s; %d shortened, left out: %s",
        *(examples.name, split, len(examples.rows), len(result.tokens), time.perf_counter() - start, result.shortened),
        ", ".join(f"{reason} {count}" for reason, count in sorted(result.skipped.items())) or "none",
    )
    if folder is not None:
        try:
            _write_cache(folder, result)
        except OSError as error:  # the tokens are in memory, so a full disk costs the next start its time and nothing more
            logger.warning("tokens are not kept in %s (%s): the next start makes them anew", folder, error)
    return result


def tokenize_chunk(examples: list[Example], tokenizer: FastTokenizer, config: DataConfig) -> _Chunk:
    """Renders, encodes and fits some examples; bad ones are returned, not raised."""
    rendered: list[Rendered] = []
    kept: list[TextExample | PairExample] = []
    bad = []
    for example in examples:
        if not isinstance(example, TextExample | PairExample):
            raise TypeError(f"{type(example).__name__} has no completion to train on")
        try:
            rendered.append(render(example, tokenizer))
            kept.append(example)
        except BadRow as error:
            bad.append((example.where, error.reason, error.detail))
    rows: list[EncodedRow] = []
    margins: list[float] = []
    dropped: Counter[str] = Counter()
    shortened = 0
    encoded = encode_rows(rendered, tokenizer, config)
    for example, (prompt, completions) in zip(kept, encoded, strict=True):
        try:
            fitted, is_cut = fit(prompt, completions, config, num_prefix=num_prefix(prompt, tokenizer))
        except Dropped as reason:
            dropped[reason.args[0]] += 1
            continue
        rows += fitted
        shortened += is_cut
        margin = example.margin if isinstance(example, PairExample) else None
        margins.append(float("nan") if margin is None else margin)
    return _Chunk(flatten(rows), margins, dropped, bad, shortened)


def _tokenize_chunks(rows: list[Example], tokenizer: FastTokenizer, config: DataConfig) -> Iterator[_Chunk]:
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    num_proc = min(config.num_proc, len(chunks))
    if num_proc > 1:
        # spawn, not fork: forking a process in which JAX has threads can deadlock
        context = multiprocessing.get_context("spawn")
        setup = _worker_setup(tokenizer, config)
        with concurrent.futures.ProcessPoolExecutor(num_proc, context, _start_worker, setup) as pool:
            try:
                yield from _progress(pool.map(_work, chunks), len(chunks))
            except concurrent.futures.process.BrokenProcessPool:
                raise DataError(
                    "a tokenisation process died: guard the script with if __name__ == '__main__', or set data.num_proc=1"
                ) from None
    else:
        yield from _progress((tokenize_chunk(chunk, tokenizer, config) for chunk in chunks), len(chunks))


def _progress(chunks: Iterator[_Chunk], total: int) -> Iterator[_Chunk]:
    console = Console(stderr=True)
    is_shown = sys.stderr.isatty() and total > 4
    yield from track(chunks, "tokenising", total=total, console=console, transient=True, disable=not is_shown)


_worker: dict = {}  # of a worker process only: its tokenizer and options


def _worker_setup(tokenizer: FastTokenizer, config: DataConfig) -> tuple:
    return tokenizer.backend.to_str(), tokenizer.config, config


def _start_worker(backend: str, tokenizer_config: dict, config: DataConfig) -> None:
    import tokenizers

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker["tokenizer"] = FastTokenizer(tokenizers.Tokenizer.from_str(backend), tokenizer_config)
    _worker["config"] = config


def _work(chunk: list[Example]) -> _Chunk:
    return tokenize_chunk(chunk, _worker["tokenizer"], _worker["config"])


def _join(chunks: list[_Chunk], config: DataConfig, skipped: dict[str, int], name: str) -> TokenizedSet:
    bad = [row for chunk in chunks for row in chunk.bad]
    if bad and config.on_error == "strict":
        where, _, detail = bad[0]
        raise DataError(f"{where}: {detail} (bad row 1 of {len(bad)}; data.on_error=skip leaves them out)")
    if bad:
        logger.warning("%s: %d bad rows left out; the first: %s: %s", name, len(bad), bad[0][0], bad[0][2])
    counts = Counter(skipped) + Counter(reason for _, reason, _ in bad)
    for chunk in chunks:
        counts += chunk.dropped
    lengths = np.concatenate([chunk.arrays[2] for chunk in chunks])
    if not len(lengths):
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))
        raise DataError(
            f"no row of {name} can be used with max_length {config.max_length} and truncation {config.truncation!r}: {reasons}"
        )
    return TokenizedSet(
        tokens=np.concatenate([chunk.arrays[0] for chunk in chunks]),
        trained=np.concatenate([chunk.arrays[1] for chunk in chunks]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        margins=np.array([margin for chunk in chunks for margin in chunk.margins], np.float32),
        skipped=dict(counts),
        shortened=sum(chunk.shortened for chunk in chunks),
    )


def _write_cache(folder: pathlib.Path, result: TokenizedSet) -> None:
    """Writes beside the final place, then renames: a reader sees all or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        _fill_cache(temporary, result)
        temporary.rename(folder)
    except OSError:
        shutil.rmtree(temporary)
        if not folder.is_dir():  # another process was not first
            raise


def _fill_cache(temporary: pathlib.Path, result: TokenizedSet) -> None:
    for name, array in zip(_ARRAYS, result[:4], strict=True):
        np.save(temporary / f"{name}.npy", array)
    digests = {name: file_digest(temporary / f"{name}.npy") for name in _ARRAYS}
    meta = {"skipped": result.skipped, "shortened": result.shortened, "digests": digests}
    meta["digest"] = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
    (temporary / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _read_cache(folder: pathlib.Path) -> TokenizedSet:
    """The arrays that `_write_cache` wrote; `StaleError` when a bit of them differs."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        digest = meta.pop("digest")
        if digest != hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest():
            raise StaleError("the digest of meta.json differs")
        for name in _ARRAYS:
            if file_digest(folder / f"{name}.npy") != meta["digests"][name]:
                raise StaleError(f"the digest of {name}.npy differs")
        tokens, trained, offsets, margins = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS)
        return TokenizedSet(tokens, trained, offsets, margins, meta["skipped"], meta["shortened"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise StaleError(" ".join(str(error).split()) or type(error).__name__) from error
