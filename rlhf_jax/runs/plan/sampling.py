"""The programs that sample, on shapes alone."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlhf_jax.config import Config
from rlhf_jax.models.flops import attention_flops
from rlhf_jax.rollout import SamplingParams
from rlhf_jax.rollout.programs import Settings, Slots, make_programs
from rlhf_jax.rollout.sampling import sampling_steps
from rlhf_jax.runs.footprint import device_bytes, tree_bytes
from rlhf_jax.runs.plan.program import Program, placed
from rlhf_jax.runs.rollout_layout import chunk_of, prompts_of, ring_of, sampler_of, slots_of
from rlhf_jax.runs.trees import Loaded
from rlhf_jax.runs.useful.work import Stage, generation_stages, make_decoder
from rlhf_jax.sharding import row_shards
from rlhf_jax.types import Model, Params


class Layout(NamedTuple):
    """How a run samples."""

    mesh: Mesh
    model: Model
    params: Params
    """As shapes."""
    is_copy: bool
    """They lie beside what is trained: cast, or laid out anew."""
    itemsize: int
    replicate: tuple[str, ...]
    """Names that are kept whole."""


def sampling_programs(config: Config, mesh: Mesh, loaded: Loaded) -> Sequence[Program]:
    """Reading the prompts, and decoding `rollout.chunk` tokens in every slot, as a run with
    `rollout.slots` does; one without has both in one program.

    Args:
      config: a whole run.
      mesh: of training.
      loaded: trees of the run, as shapes.
    """
    rollout = config.rollout
    sampling = config.algorithm.sampling
    layout = layout_of(config, mesh, loaded)
    shards = row_shards(layout.mesh)
    slots = -(-slots_of(config, sampling.group_size) // shards) * shards
    prompts = -(-prompts_of(config) // shards) * shards
    programs: Any = make_programs(
        layout.model,
        Settings(
            mesh=layout.mesh,
            max_new_tokens=rollout.max_new_tokens,
            eos_ids=(0,),
            pad_id=0,
            group_size=sampling.group_size,
            buckets=(rollout.max_prompt_len,),
            slots=slots,
            chunk=chunk_of(config),
            shards=shards,
        ),
    )
    choice = SamplingParams(sampling.temperature, rollout.top_p, rollout.top_k, rollout.min_p)
    steps = sampling_steps(choice)
    key = jax.eval_shape(lambda: jax.random.key(0))
    tokens = _numbers(prompts, rollout.max_prompt_len)
    pool = _pinned(
        jax.eval_shape(lambda p, t: programs.empty_pool(p, t, prompts), layout.params, tokens),
        layout.mesh,
    )
    size = ring_of(config) or chunk_of(config)
    ring = _pinned(jax.eval_shape(lambda p: programs.empty(p, slots, size), pool), layout.mesh)
    active: Any = jax.ShapeDtypeStruct((slots,), jnp.bool_)
    rows = Slots(*(_numbers(slots),) * 6, active)
    reading, decoding = _stages(config, layout, slots)
    read = np.tile(np.array([[0, rollout.max_prompt_len]]), (config.training.batch_size, 1))
    attended = float(attention_flops(layout.model.config, read))
    reads = {} if layout.is_copy else {"policy": loaded.trained["policy"]}
    all_rows = config.training.batch_size * sampling.group_size
    chunks = -(-max(rollout.max_new_tokens - 1, 1) // chunk_of(config))
    return (
        Program(
            "prefill",
            lambda: programs.prefill.lower(
                layout.params, pool, tokens, _numbers(prompts), 0, key, choice, steps=steps
            ),
            calls=-(-config.training.batch_size // prompts),
            flops=reading.flops,
            attention=attended,
            traffic=reading.bytes,
            reads=reads,
        ),
        Program(
            "decode",
            lambda: programs.chunk.lower(
                layout.params, pool, ring, 0, rows, key, choice, steps=steps
            ),
            calls=-(-all_rows // slots) * chunks,
            flops=decoding.flops,
            attention=0.0,
            traffic=decoding.bytes,
            reads=reads,
        ),
    )


def layout_of(config: Config, mesh: Mesh, loaded: Loaded) -> Layout:
    """Mesh, functions and parameters of the sampler (`runs.sampling.make_sampler`).

    Args:
      config: a whole run.
      mesh: of training.
      loaded: trees of the run, as shapes.
    """
    section = config.model
    where, model, replicate = sampler_of(config, mesh, loaded.model)
    dtype = jnp.dtype(section.compute_dtype or section.dtype)
    params: Params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, dtype), dict(loaded.trained["policy"])
    )
    is_copy = config.rollout.mesh is not None or dtype != jnp.dtype(section.dtype)
    params = placed(params, where, replicate)
    return Layout(where, model, params, is_copy, dtype.itemsize, replicate)


def _stages(config: Config, layout: Layout, slots: int) -> tuple[Stage, Stage]:
    """What one device must do for the prompts and completions of a step: (prefill, decode), useful
    operations of all devices and bytes of one."""
    rollout = config.rollout
    count = config.training.batch_size
    group = config.algorithm.sampling.group_size
    decoder = make_decoder(layout.model.config, layout.params, layout.itemsize)
    asked = np.full(count, rollout.max_prompt_len, np.int64)
    answers = np.full((count, group), rollout.max_new_tokens, np.int64)
    stages = generation_stages(decoder, asked, answers, min(slots, count * group))
    # Of the parameters a device holds its part, and of the caches that of its rows and heads: a
    # smaller one, so this is what it reads at most.
    held = device_bytes(layout.params, layout.mesh, replicate=layout.replicate)
    share = held / max(tree_bytes(layout.params), 1)
    reading, decoding = (Stage(stage.flops, stage.bytes * share) for stage in stages)
    return reading, decoding


def _numbers(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def _pinned(cache: Any, mesh: Mesh) -> Any:
    """A cache of shapes where a run's would lie."""
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        cache,
        cache.shardings(mesh),
    )
