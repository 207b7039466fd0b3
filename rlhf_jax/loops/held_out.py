"""Metrics of a loss over a held-out set."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlhf_jax.algorithms import SFTConfig
from rlhf_jax.config import Config
from rlhf_jax.data import Loader
from rlhf_jax.loops.place import place_batch
from rlhf_jax.types import Algorithm, Metrics, Params

EvalStep = Callable[[Params, Params, Any], tuple[Metrics, Any]]


def per_document(config: Config) -> bool:
    """Whether the loss averages over documents, and not over tokens or pairs."""
    return isinstance(config.algorithm, SFTConfig) and config.algorithm.aggregation == "sequence"


def make_eval_step(algorithm: Algorithm, *, per_document: bool = False) -> EvalStep:
    """(params, frozen, batch) -> (metrics of the batch, number of elements they are the mean of).
    Pure; jit it.

    Args:
      algorithm: its loss and weights.
      per_document: the elements are documents (rows, or segments of packed rows) and not tokens or
        pairs.
    """

    def eval_step(params: Params, frozen: Params, batch: Any) -> tuple[Metrics, Any]:
        batch = algorithm.weigh(batch)
        loss, metrics = algorithm.loss(params, frozen, batch, jax.random.key(0))
        used = batch.weights > 0
        if per_document:
            segments = (
                batch.mask.astype(jnp.int32) if batch.segment_ids is None else batch.segment_ids
            )
            count = jax.vmap(
                lambda s, u: (
                    jax.ops.segment_max(u.astype(jnp.int32), s, used.shape[1] + 1)[1:]
                    .clip(0, 1)
                    .sum()
                )
            )
            return metrics | {"loss/total": loss}, count(segments, used).sum()
        return metrics | {"loss/total": loss}, used.sum()

    return eval_step


def evaluate_loader(
    eval_step: EvalStep,
    params: Params,
    frozen: Params,
    loader: Loader,
    *,
    mesh: Mesh,
    batch_size: int,
    ref_logps: np.ndarray | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Every example of a loader once; the mean of each metric over all weighted elements (tokens or
    pairs).

    Args:
      eval_step: from `make_eval_step`, jitted.
      params: the policy.
      frozen: other parameters that the loss reads.
      loader: held-out examples.
      mesh: the device mesh.
      batch_size: rows per forward pass.
      ref_logps: [num_examples, 2] from `reference_logps`, for a loss that needs them.
      stopped: whether a signal asked to stop; asked before every batch.

    Returns:
      Metric name -> value. Keys that end in _max or _min are reduced by max and min, all others by
      the mean. Nothing when stopped.
    """
    parts: list[dict[str, float]] = []
    counts: list[int] = []
    for indices, batch in loader.sequential(batch_size):
        if stopped():
            return {}
        batch = place_batch(with_reference(batch, indices, ref_logps), mesh)
        metrics, count = jax.device_get(eval_step(params, frozen, batch))
        if count:
            parts.append({name: float(value) for name, value in metrics.items()})
            counts.append(int(count))
    if not parts:
        raise ValueError("the evaluation set holds nothing to score: every row is empty")
    return {name: _combine(name, [part[name] for part in parts], counts) for name in parts[0]}


def with_reference(batch: Any, indices: np.ndarray, ref_logps: np.ndarray | None) -> Any:
    """A pair batch with the reference's log-probabilities of its examples; filler rows (index -1)
    get 0."""
    if ref_logps is None:
        return batch
    rows = np.where((indices >= 0)[:, None], ref_logps[np.maximum(indices, 0)], np.float32(0))
    return batch._replace(ref_logps=rows)


def _combine(name: str, values: list[float], counts: list[int]) -> float:
    if name.endswith("_max"):
        return max(values)
    if name.endswith("_min"):
        return min(values)
    return float(np.average(values, weights=counts))
