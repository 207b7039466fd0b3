"""What a comparison works out once for all of its processes and sessions, as files."""

import hashlib
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

from rlhf_jax.config.document import render
from rlhf_jax.io.disk import write_whole


def kept(path: pathlib.Path, asked: str, make: Callable[[], Any]) -> Any:
    """What is kept in a file, if it was made of the same; else it is made now, and kept.

    Args:
      path: in a folder that is there once `make` has returned.
      asked: digest of all that it depends on.
      make: numbers, or dictionaries and lists of them.
    """
    if path.exists():
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.get("asked") == asked:
            return known(document["found"])
    found = make()
    document = {"asked": asked, "found": finite(found)}
    write_whole(path, json.dumps(document, indent=1) + "\n")
    return found


def digest(value: Any) -> str:
    """Of a configuration, or a part of one, as plain values."""
    return hashlib.sha256(render(value).encode()).hexdigest()[:16]


def finite(value: Any) -> Any:
    """NaN as null: JSON has no NaN."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def known(value: Any) -> Any:
    """Null as NaN, where `finite` has written numbers."""
    if isinstance(value, dict):
        return {name: known(item) for name, item in value.items()}
    if isinstance(value, list):
        return [known(item) for item in value]
    return float("nan") if value is None else value
