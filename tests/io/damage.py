"""Nine ways in which a file is damaged, for the tests that read damaged folders."""

import pathlib
from collections.abc import Callable, Iterator

import numpy as np


def _flip(place: float) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        changed = bytearray(data)
        if changed:
            changed[int(place * (len(changed) - 1))] ^= 0b100
        return bytes(changed)

    return damage


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "bit of the first byte": _flip(0.0),
    "bit in the middle": _flip(0.5),
    "bit of the last byte": _flip(1.0),
    "half": lambda data: data[: len(data) // 2],
    "last byte missing": lambda data: data[:-1],
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "noise": lambda data: np.random.default_rng(len(data)).bytes(len(data)),
    "deleted": lambda data: None,
}


def damaged_files(folder: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
    """Damages every file below a folder, one at a time, and mends it after: (damage, file)."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        for name, damage in DAMAGES.items():
            broken = damage(whole)
            if broken == whole:
                continue
            if broken is None:
                path.unlink()
            else:
                path.write_bytes(broken)
            try:
                yield name, path
            finally:
                path.write_bytes(whole)
