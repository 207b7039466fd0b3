"""Reference log-probabilities: computed once per pair, cached under a fingerprint, so that the reference can leave memory."""

import hashlib
import logging
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from rlhf_jax.algorithms.dpo import sequence_logps
from rlhf_jax.config import Config
from rlhf_jax.data import Loader
from rlhf_jax.loops.place import place_batch
from rlhf_jax.loops.setup import context_of
from rlhf_jax.types import Model, Params

_log = logging.getLogger(__name__)


def reference_logps(
    model: Model, params: Params, loader: Loader, *, mesh: Mesh, batch_size: int, cache_dir: pathlib.Path, precision: str
) -> np.ndarray:
    """Sum of the reference's log-probabilities over each completion, for every pair of a loader.

    The result is cached as ``<cache_dir>/ref_logps-<fingerprint>.npy``; the fingerprint covers the reference weights, the
    architecture, the compute precision, the data, the tokenizer and the data options.

    Args:
      model: the policy's architecture.
      params: the reference's parameters.
      loader: pairs; every example is scored once.
      mesh: the device mesh.
      batch_size: pairs per forward pass.
      cache_dir: folder of the cache; made when absent.
      precision: from `precision_of`, part of the fingerprint.

    Returns:
      float32 [num_examples, 2], nats; axis 1 is (chosen, rejected).
    """
    identity = f"{params_fingerprint(params)}|{model.config!r}|{precision}|{loader.fingerprint}"
    path = cache_dir / f"ref_logps-{hashlib.sha256(identity.encode()).hexdigest()[:24]}.npy"
    if path.is_file():
        cached = np.load(path)
        if cached.shape == (loader.num_examples, 2):
            _log.info("reference log-probs of %d pairs read from %s", len(cached), path)
            return cached
    score = jax.jit(lambda params, batch: sequence_logps(model, params, batch))
    result = np.zeros((loader.num_examples, 2), np.float32)
    for indices, batch in loader.sequential(batch_size):
        logps = np.asarray(score(params, place_batch(batch, mesh)))
        real = indices >= 0
        result[indices[real]] = logps[real]
    if not np.isfinite(result).all():
        rows = np.flatnonzero(~np.isfinite(result).all(1))
        raise ValueError(f"the reference gives a non-finite log-probability to {len(rows)} pairs (first: example {rows[0]})")
    cache_dir.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.npy")
    np.save(temporary, result)
    os.replace(temporary, path)
    _log.info("reference log-probs of %d pairs computed and cached in %s", len(result), path)
    return result


def precision_of(config: Config) -> str:
    """How a run computes, as far as it changes log-probabilities: the compute dtype and the context."""
    return f"{config.model.compute_dtype or config.model.dtype}, context {context_of(config)}"


def params_fingerprint(params: Params) -> str:
    """A digest of names, shapes, dtypes and every bit of a tree of arrays, the same however they are sharded.

    Two position-dependent sums per array are taken on the device in wrapping 32-bit integers, so nothing large moves.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    sums = jax.device_get(_checksums([leaf for _, leaf in leaves]))
    digest = hashlib.sha256()
    for (path, leaf), pair in zip(leaves, sums, strict=True):
        digest.update(f"{jax.tree_util.keystr(path)}:{leaf.shape}:{leaf.dtype}:{int(pair[0])}:{int(pair[1])};".encode())
    return digest.hexdigest()


@jax.jit
def _checksums(leaves: list[Any]) -> list[Array]:
    return [_checksum(leaf) for leaf in leaves]


def _checksum(x: Array) -> Array:
    width = x.dtype.itemsize
    if width not in (2, 4):
        raise ValueError(f"fingerprints cover 16- and 32-bit arrays, got {x.dtype}")
    bits = jax.lax.bitcast_convert_type(x, jnp.uint16 if width == 2 else jnp.uint32).astype(jnp.uint32)
    index = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    first = (bits * (index * jnp.uint32(2654435761) | jnp.uint32(1))).sum(dtype=jnp.uint32)
    second = ((bits ^ (index * jnp.uint32(2246822519))) * jnp.uint32(3266489917)).sum(dtype=jnp.uint32)
    return jnp.stack([first, second])
