"""Raw rows of a source, whatever it is, and a hash of its content."""

import hashlib
import pathlib
from collections.abc import Iterator
from typing import Any

from rlhf_jax.data.arrow_rows import load_hub, read_hub, read_parquet, read_saved
from rlhf_jax.data.errors import DataError
from rlhf_jax.data.handed_rows import read_handed, rows_of
from rlhf_jax.data.sources import RawRow, Source, check_options, kind_of, local_files
from rlhf_jax.data.synthetic import is_synthetic, synthetic_rows
from rlhf_jax.data.text_rows import PACKED_BADLY, open_file, read_csv, read_json, read_json_lines
from rlhf_jax.handed import is_handed


def read_rows(source: Source, kind: str) -> Iterator[RawRow]:
    """All rows of a source, bad ones included. `kind` chooses what a generator makes.

    Raises:
        DataError: a file is missing, empty, or of a type that is not read; a hub dataset cannot be
            had; `split`, `subset` or `data_dir` cannot apply to the path.
    """
    check_options(source)
    if is_synthetic(source.name):
        for number, columns in enumerate(synthetic_rows(source.name, kind), start=1):
            yield RawRow(f"{source.name} row {number}", columns)
    elif is_handed(source.name):
        yield from read_handed(source)
    elif pathlib.Path(source.name).exists():
        for part in local_files(source):
            yield from read_saved(part, source) if part.is_dir() else _read_file(part)
    else:
        yield from read_hub(source)


def source_fingerprint(source: Source, kind: str) -> str:
    """Hash of the content: file bytes, or the generator's name with its options."""
    check_options(source)
    digest = hashlib.sha256()
    if is_synthetic(source.name):
        digest.update(f"{source.name} {kind}".encode())
    elif is_handed(source.name):
        rows_of(source)
        digest.update(source.name.encode())  # which is made of their content
    elif pathlib.Path(source.name).exists():
        for part in local_files(source):
            for file in sorted(part.rglob("*.arrow")) if part.is_dir() else [part]:
                _hash_file(file, digest)
    else:
        for file in sorted(entry["filename"] for entry in load_hub(source).cache_files):
            _hash_file(pathlib.Path(file), digest)
    return digest.hexdigest()


def _hash_file(file: pathlib.Path, digest: Any) -> None:
    digest.update(f"\0{file.suffix}\0{file.stat().st_size}\0".encode())
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)


def _read_file(file: pathlib.Path) -> Iterator[RawRow]:
    kind = kind_of(file)
    if kind == ".parquet":
        yield from read_parquet(file)
        return
    with open_file(file) as stream:
        try:
            if kind == ".csv":
                yield from read_csv(file, stream)
            elif kind == ".json":
                yield from read_json(file, stream)
            else:
                yield from read_json_lines(file, stream)
        except PACKED_BADLY as error:
            raise DataError(f"{file} is not a whole gzip file: {error}") from None
