"""What a list of rewards runs: code not the library's own, and whether it is still the same."""

import ast
import hashlib
import importlib.machinery
import importlib.util
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence

from rlhf_jax.handed import is_handed
from rlhf_jax.rewards.config import RewardConfig
from rlhf_jax.rewards.limits import is_builtin, whole_batch
from rlhf_jax.rewards.local import code_digest


def untrusted(configs: Sequence[RewardConfig]) -> tuple[RewardConfig, ...]:
    """The rewards that run code which the configuration names. Nothing is imported to find out."""
    return tuple(config for config in configs if not is_builtin(config))


def fingerprint(configs: Sequence[RewardConfig]) -> str:
    """Digest of what grades: each reward's configuration and the source of functions of one's own.

    Of a function in a file (or module) these are the bytes of the file and of the files beside it
    that it imports, and that those import. Where the file lies does not matter. Of
    one that a program hands over it is the function's own text. Built-ins count by name.

    Returns:
      64 hexadecimal digits. Rewards whose file is gone have a digest too: that of no file.
    """
    digest = hashlib.sha256()
    for config in configs:
        place, _, attribute = config.function.rpartition(":")
        named = attribute if place.endswith(".py") else config.function
        options = json.dumps(dict(config.options), sort_keys=True, default=repr)
        fields = [
            named,
            repr(config.weight),
            config.label,
            options,
            repr(whole_batch(config)),
            config.on_timeout,
        ]
        digest.update(json.dumps(fields).encode())
        if is_builtin(config):
            continue
        if is_handed(config.function):
            digest.update(code_digest(config.function).encode())
            continue
        for path in _sources(_file_of(place)):
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _file_of(place: str) -> pathlib.Path | None:
    """The file of ``file.py`` or of ``package.module``, without importing anything."""
    if place.endswith(".py"):
        path = pathlib.Path(place).resolve()
        return path if path.is_file() else None
    folders: list[str] | None = None  # sys.path first, then the folders of each package in turn
    spec = None
    for part in place.split("."):
        spec = importlib.machinery.PathFinder.find_spec(part, folders)
        if spec is None:
            return None
        folders = list(spec.submodule_search_locations or ())
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    return pathlib.Path(spec.origin)


def _sources(path: pathlib.Path | None) -> Iterator[pathlib.Path]:
    """A file and, each once, the files beside it that it imports."""
    queue: list[pathlib.Path] = [path] if path is not None else []
    seen: set[pathlib.Path] = set()
    while queue:
        current = queue.pop(0)
        if current in seen:
            continue
        seen.add(current)
        yield current
        queue += _neighbours(current)


def _neighbours(path: pathlib.Path) -> list[pathlib.Path]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # loading says so; the file itself is in the digest
        return []
    found = []
    for node in ast.walk(tree):
        names: list[str] = []
        folder = path.parent
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            folder = (
                path.parents[max(node.level - 1, 0)] if node.level <= len(path.parents) else folder
            )
            prefix = f"{node.module}." if node.module else ""
            names = [
                *([node.module] if node.module else []),
                *(f"{prefix}{alias.name}" for alias in node.names),
            ]
        for name in names:
            if name.partition(".")[0] in sys.stdlib_module_names:
                continue
            stem = folder.joinpath(*name.split("."))
            found += [
                file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.is_file()
            ]
    return found
