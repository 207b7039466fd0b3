"""How the policy lies on the devices while it samples, where the configuration leaves it open."""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rlhf_jax.config import Config, MeasureConfig
from rlhf_jax.io.disk import describe_bytes
from rlhf_jax.models import ModelConfig, abstract_params, make_model
from rlhf_jax.models.remat import device_memory
from rlhf_jax.rollout.generate import windows
from rlhf_jax.runs.footprint import cache_bytes, device_bytes
from rlhf_jax.runs.trees import execution
from rlhf_jax.sharding import MeshConfig, mesh_over, row_shards
from rlhf_jax.sharding.hosts import devices_of_a_host
from rlhf_jax.target import platform
from rlhf_jax.types import Model

_log = logging.getLogger(__name__)
ConfigT = TypeVar("ConfigT", Config, MeasureConfig)

_SMALL = 16
"""Weights of which a device's memory holds so many times as much are read whole in less time than
the sums over `tensor`, two a layer, take to begin."""
_USED = 0.9
"""Share of a device's memory that is planned with; the rest is for the compiler's buffers."""


class Layout(NamedTuple):
    """A way to lay the policy out."""

    data: int
    tensor: int
    weights: int
    """Bytes on each device."""
    caches: int
    """Likewise, when completions are longest."""


def with_rollout_mesh(
    config: ConfigT, mesh: Mesh, model: Model, *, held: Callable[[], int], cached: int
) -> ConfigT:
    """The configuration with `rollout.mesh` chosen where it is null and weights are divided over
    `fsdp`.

    Decoding on `fsdp` gathers every weight for every token: 261 GB for 16 tokens of a model with 8B
    parameters on 64 chips. Laid out anew once per generation, over `tensor` and `data` alone, its
    weights move 2.3 GB, once.

    Args:
      config: of a run, or of a measurement.
      mesh: of training.
      model: the policy. One of one's own stays where it is.
      held: counts the bytes that each device holds beside what it samples with; asked only where
        there is something to choose.
      cached: tokens in the caches, over all devices (`cached_tokens`).
    """
    architecture = model.config
    is_own = config.model.given or not isinstance(architecture, ModelConfig)
    if config.rollout.mesh is not None or mesh.shape["fsdp"] == 1 or is_own:
        return config
    dtype = config.model.compute_dtype or config.model.dtype
    replicate = config.mesh.replicate
    room = _USED * device_memory(mesh)
    layouts = list(_layouts(architecture, mesh, dtype, replicate, cached=cached, room=room))
    beside = held()
    fitting = [each for each in layouts if beside + each.weights + each.caches <= room]
    if not fitting:
        why = "heads, MLP, vocabulary and rows do not divide over its devices otherwise"
        if layouts:
            why = _too_large(min(layouts, key=lambda each: each.weights), beside, room)
        _log.warning(
            "rollout.mesh: the training mesh, on which every token gathers the weights: %s", why
        )
        return config
    best = fitting[0]
    _log.info(
        "rollout.mesh: data=%d, tensor=%d, chosen for %d key/value heads, %s of weights (%s) and "
        "%s of caches on each device beside %s; on fsdp every token would gather the weights",
        *(best.data, best.tensor, architecture.num_kv_heads, describe_bytes(best.weights), dtype),
        *(describe_bytes(best.caches), describe_bytes(beside)),
    )
    chosen = MeshConfig(data=best.data, fsdp=1, tensor=best.tensor, replicate=replicate)
    rollout = dataclasses.replace(config.rollout, mesh=chosen)
    return dataclasses.replace(config, rollout=rollout)


def cached_tokens(config: Config | MeasureConfig, *, prompt_width: int, group_size: int) -> int:
    """Places in the caches of a generation, when completions are longest.

    Args:
      config: of a run, or of a measurement.
      prompt_width: places of a prompt.
      group_size: completions of each.
    """
    slots = slots_of(config, group_size)
    return prompts_of(config) * prompt_width + slots * ring_of(config)


def prompts_of(config: Config | MeasureConfig) -> int:
    """Prompts of a generation batch."""
    return config.rollout.prompts_per_batch or config.training.batch_size


def slots_of(config: Config | MeasureConfig, group_size: int) -> int:
    """Completions that decode together."""
    completions = prompts_of(config) * group_size
    return min(config.rollout.slots or completions, completions)


def chunk_of(config: Config | MeasureConfig) -> int:
    """Tokens decoded in one call."""
    return min(config.rollout.chunk, config.rollout.max_new_tokens)


def ring_of(config: Config | MeasureConfig) -> int:
    """Places of a completion in the cache, at its longest; 0: its one token comes with the
    prompt."""
    return max(windows(config.rollout.max_new_tokens, chunk_of(config)), default=0)


def sampler_of(
    config: Config | MeasureConfig, mesh: Mesh, policy: Model
) -> tuple[Mesh, Model, tuple[str, ...]]:
    """Where completions are sampled, the policy's functions there, and names that are whole there.

    Args:
      config: with `rollout.mesh` chosen (`with_rollout_mesh`); null: as in training.
      mesh: of training.
      policy: its functions on that mesh.
    """
    if config.rollout.mesh is None:
        return mesh, policy, config.mesh.replicate
    own = mesh_over(mesh, config.rollout.mesh)
    head = None if policy.scores is None else "value"
    model = make_model(policy.config, mesh=own, head=head, **execution(config))
    return own, model, config.rollout.mesh.replicate


def _layouts(
    architecture: ModelConfig,
    mesh: Mesh,
    dtype: str,
    replicate: tuple[str, ...],
    *,
    cached: int,
    room: float,
) -> Iterator[Layout]:
    """Layouts that heads and rows allow, the best first: as many parts as there are key/value
    heads, and whole weights before them where these are small."""
    weights = abstract_params(architecture, None, dtype)
    near = mesh.size
    if platform() == "gpu":
        # Two sums a layer and token, over the slow network between hosts, would take longer than
        # all else; chips of a TPU slice have one network.
        near = devices_of_a_host(mesh)
    divided = math.gcd(architecture.num_kv_heads, architecture.num_heads, mesh.size, near)
    parts = [n for n in range(divided, 0, -1) if divided % n == 0]
    whole = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(weights))
    if whole * jnp.dtype(dtype).itemsize * _SMALL <= room / _USED:
        parts.insert(0, 1)
    for tensor in dict.fromkeys(parts):
        data = mesh.size // tensor
        others = (architecture.intermediate_size, architecture.vocab_size)
        # Rows that divide over the training mesh must divide over this one.
        if row_shards(mesh) % data or any(size % tensor for size in others):
            continue
        laid = mesh_over(mesh, {"data": data, "tensor": tensor})
        size = device_bytes(weights, laid, replicate=replicate)
        yield Layout(data, tensor, size, cache_bytes(architecture, laid, cached, dtype))


def _too_large(layout: Layout, held: int, room: float) -> str:
    return (
        f"data={layout.data}, tensor={layout.tensor} needs {describe_bytes(layout.weights)} of "
        f"weights and {describe_bytes(layout.caches)} of caches beside {describe_bytes(held)}, and "
        f"a device has room for {describe_bytes(round(room))}"
    )
