"""What a comparison works out once for all of its processes and sessions, as files."""

import hashlib
import json
import logging
import math
import pathlib
from collections.abc import Callable
from typing import Any

from rlhf_jax.config.document import render
from rlhf_jax.io.disk import write_whole

_log = logging.getLogger(__name__)


def kept(path: pathlib.Path, asked: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is kept in a file, if it was made of the same; else it is made now, and kept.

    Args:
      path: in a folder that is there once `make` has returned.
      asked: digest of all that it depends on.
      make: a dictionary of numbers, of lists of them, or of dictionaries.
    """
    document = read_kept(path)
    if document.get("asked") == asked and isinstance(document.get("found"), dict):
        return known(document["found"])
    found = make()
    document = {"asked": asked, "found": finite(found)}
    write_whole(path, json.dumps(document, indent=1) + "\n")
    return found


def read_kept(path: pathlib.Path) -> dict[str, Any]:
    """A file that can be made again: empty where it is not there, or damaged."""
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        _log.warning("%s is damaged; what it held is made again", path)
        return {}
    return document if isinstance(document, dict) else {}


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
