"""A digest of the code of reward functions, to notice that it changed between two sessions of a run."""

import hashlib
import importlib.util
import pathlib
from collections.abc import Sequence

from rlhf_jax.rewards.config import RewardConfig


def fingerprint(configs: Sequence[RewardConfig]) -> dict[str, str]:
    """Digests of the files that hold reward functions.

    Only the file itself is read; what it imports is not followed. Built-in rewards change with the package and have none.

    Args:
        configs: the rewards of a run.

    Returns:
        Label -> hexadecimal digest, of rewards given as `path/to/file.py:function` or `package.module:function`.
    """
    found = {config.label: _source(config.function) for config in configs}
    return {
        label: hashlib.sha256(path.read_bytes()).hexdigest()
        for label, path in found.items()
        if path is not None and path.is_file()
    }


def _source(function: str) -> pathlib.Path | None:
    place, colon, _ = function.rpartition(":")
    if not colon:
        return None
    if place.endswith(".py"):
        return pathlib.Path(place).expanduser()
    try:
        spec = importlib.util.find_spec(place)
    except (ImportError, ValueError):  # said by the loading of rewards, better
        return None
    return pathlib.Path(spec.origin) if spec is not None and spec.origin is not None else None
