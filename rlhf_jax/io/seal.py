"""What is written beside the arrays of a checkpoint, so that reading them shows any damage.

The JSON file `meta` of a checkpoint holds `format`, `fingerprints` and `layouts` of its array
items, the `metrics` it is ranked by, `run` (what the loop gave) and `sha256` of all that. A file of
an earlier version is what the loop gave and nothing else.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

FORMAT = 2


class DamagedError(ValueError):
    """Why a file cannot be what was written, without its place."""


class Meta(NamedTuple):
    """An opened `meta`."""

    run: dict[str, Any]
    """What the loop gave."""
    fingerprints: dict[str, str]
    """`params` and fields of `rest` -> digest of the values; empty when an earlier version wrote
    the checkpoint."""
    layouts: dict[str, str]
    """Item -> digest of its names, shapes and dtypes; empty as above."""
    metrics: dict[str, float] | None
    """What the checkpoint is ranked by."""


def seal(meta: Meta) -> dict[str, Any]:
    """What to write, as JSON holds it."""
    body = json.loads(json.dumps({"format": FORMAT, **meta._asdict()}))
    return body | {"sha256": digest(body)}


def unseal(stored: Any) -> Meta:
    """The reverse of `seal`.

    Raises:
        DamagedError: the contents are not those that were written.
    """
    if not isinstance(stored, dict):
        raise DamagedError(f"it holds {type(stored).__name__} instead of an object")
    if not stored:
        raise DamagedError("it holds nothing")
    expected = {"format", *Meta._fields, "sha256"}
    # one changed letter must not make a new file look like an old one
    if len(expected & stored.keys()) < 2:
        return Meta(stored, {}, {}, None)
    if stored.keys() != expected:
        wrong = ", ".join(sorted(map(repr, stored.keys() ^ expected)))
        raise DamagedError(f"its keys are not those that were written ({wrong})")
    if stored["sha256"] != digest({name: stored[name] for name in expected - {"sha256"}}):
        raise DamagedError("its contents are not those that were written")
    if stored["format"] != FORMAT:
        raise DamagedError(f"its format {stored['format']!r} is not known to this version")
    return Meta(**{name: stored[name] for name in Meta._fields})


def digest(body: Mapping[str, Any]) -> str:
    """SHA-256 of what JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
