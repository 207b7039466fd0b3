"""Scores of every example, computed once before the first step and kept under a fingerprint.

The trees that they read can then leave memory.
"""

import functools
import hashlib
import logging
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from rlhf_jax.config import Config
from rlhf_jax.data import Loader
from rlhf_jax.data.digest import StaleError, keep_array, kept_array
from rlhf_jax.io.disk import naming
from rlhf_jax.io.fingerprint import params_fingerprint
from rlhf_jax.programs import jitted, last_batch, named
from rlhf_jax.runs.parts import context_of
from rlhf_jax.sharding import fetch, place_batch
from rlhf_jax.sharding.processes import from_leader
from rlhf_jax.training import make_score
from rlhf_jax.types import Model, Score, Trees

_log = logging.getLogger(__name__)

JittedScores = Callable[[Trees, Trees, Any], dict[str, Any]]
"""({}, frozen trees, batch) -> field -> array."""


def jitted_scores(scores: Mapping[str, Score]) -> JittedScores:
    """The compiled forward pass of `cached_scores`: made once, it serves both splits.

    Args:
      scores: `Algorithm.cached`.
    """
    return named("reference", jitted(make_score(scores)), last_batch)


def cached_scores(
    fields: Collection[str],
    score: JittedScores,
    trees: Trees,
    loader: Loader,
    *,
    model: Model,
    mesh: Mesh,
    batch_size: int,
    cache_dir: pathlib.Path,
    precision: str,
) -> dict[str, np.ndarray]:
    """`Algorithm.cached` of every example of a loader.

    Each field is kept as ``<cache_dir>/<field>-<fingerprint>.npy``; the fingerprint covers the
    trees' weights, the architecture, the compute precision, the data, the tokenizer and the data
    options.

    Args:
      fields: names of `Algorithm.cached`.
      score: from `jitted_scores`; reads `trees` alone.
      trees: frozen trees by role.
      loader: every example is scored once.
      model: functions of all roles.
      mesh: the device mesh.
      batch_size: examples per forward pass.
      cache_dir: folder of the cache; made when absent.
      precision: from `precision_of`, part of the fingerprint.

    Returns:
      Field -> float32 [num_examples, ...].

    Raises:
      ValueError: a value is not finite.
    """
    weights = " ".join(f"{role}:{params_fingerprint(tree)}" for role, tree in trees.items())
    identity = f"{weights}|{model.config!r}|{precision}|{loader.fingerprint}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:24]
    paths = {field: cache_dir / f"{field}-{digest}.npy" for field in fields}
    # One looks and tells what it found: whether to compute is decided once.
    kept = from_leader(
        "scores", lambda: {field: _kept(field, path, loader) for field, path in paths.items()}
    )
    found = {field: values for field, values in kept.items() if values is not None}
    missing = set(fields) - found.keys()
    computed: dict[str, np.ndarray] = {}
    if missing:
        computed = _computed(score, trees, loader, mesh=mesh, batch_size=batch_size)
    for field in sorted(missing):
        values = computed[field]
        from_leader("keep scores", functools.partial(_keep, paths[field], values))
        _log.info("%s of %d examples computed and cached in %s", field, len(values), paths[field])
    return computed | found


def _keep(path: pathlib.Path, values: np.ndarray) -> None:
    with naming(path):
        keep_array(path, values)


def _kept(field: str, path: pathlib.Path, loader: Loader) -> np.ndarray | None:
    try:
        values = kept_array(path)
    except StaleError as reason:
        _log.warning("%s in %s are damaged (%s): computed anew", field, path, reason)
        return None
    if values is None or len(values) != loader.num_examples:
        return None
    _log.info("%s of %d examples read from %s", field, len(values), path)
    return values


def _computed(
    score: JittedScores, trees: Trees, loader: Loader, *, mesh: Mesh, batch_size: int
) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for indices, batch in loader.sequential(batch_size):
        values = fetch(score({}, trees, place_batch(batch, mesh)))
        real = indices >= 0
        for field, rows in values.items():
            if field not in found:
                found[field] = np.zeros((loader.num_examples, *rows.shape[1:]), np.float32)
            found[field][indices[real]] = rows[real]
    for field, rows in found.items():
        bad = np.flatnonzero(~np.isfinite(rows.reshape(len(rows), -1)).all(1))
        if len(bad):
            raise ValueError(
                f"the reference gives a non-finite log-probability to {len(bad)} examples "
                f"({field}; first: example {bad[0]})"
            )
    return found


def precision_of(config: Config) -> str:
    """How a run computes, as far as it changes log-probabilities: the compute dtype and the
    context."""
    return f"{config.model.compute_dtype or config.model.dtype}, context {context_of(config)}"
