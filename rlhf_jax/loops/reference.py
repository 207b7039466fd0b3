"""Reference log-probabilities: computed once per pair, cached under a fingerprint, so that the
reference can leave memory."""

import hashlib
import logging
import pathlib

import jax
import numpy as np
from jax.sharding import Mesh

from rlhf_jax.algorithms.dpo import sequence_logps
from rlhf_jax.config import Config
from rlhf_jax.data import Loader
from rlhf_jax.data.digest import StaleError, keep_array, kept_array
from rlhf_jax.io.disk import naming
from rlhf_jax.io.fingerprint import params_fingerprint
from rlhf_jax.loops.place import place_batch
from rlhf_jax.loops.setup import context_of
from rlhf_jax.types import Model, Params

_log = logging.getLogger(__name__)


def reference_logps(
    model: Model,
    params: Params,
    loader: Loader,
    *,
    mesh: Mesh,
    batch_size: int,
    cache_dir: pathlib.Path,
    precision: str,
) -> np.ndarray:
    """Sum of the reference's log-probabilities over each completion, for every pair of a loader.

    The result is cached as ``<cache_dir>/ref_logps-<fingerprint>.npy``; the fingerprint covers the
    reference weights, the architecture, the compute precision, the data, the tokenizer and the data
    options.

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
    try:
        cached = kept_array(path)
    except StaleError as reason:
        _log.warning("reference log-probs in %s are damaged (%s): computed anew", path, reason)
        cached = None
    if cached is not None and cached.shape == (loader.num_examples, 2):
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
        raise ValueError(
            f"the reference gives a non-finite log-probability to {len(rows)} pairs (first: "
            f"example {rows[0]})"
        )
    with naming(path):
        keep_array(path, result)
    _log.info("reference log-probs of %d pairs computed and cached in %s", len(result), path)
    return result


def precision_of(config: Config) -> str:
    """How a run computes, as far as it changes log-probabilities: the compute dtype and the
    context."""
    return f"{config.model.compute_dtype or config.model.dtype}, context {context_of(config)}"
