"""How many bytes a run holds while it trains, from shapes alone.

What is held throughout (parameters, moments) and what comes and goes: gradients and activations in
an update, caches while completions are sampled. The last two are never there at the same time.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rlhf_jax.config import Config
from rlhf_jax.data.kinds import ROWS
from rlhf_jax.models import ModelConfig, abstract_params, local_folder, read_config
from rlhf_jax.models.remat import choose, kept_bytes
from rlhf_jax.models.transformer import Execution
from rlhf_jax.rewards.registry import MODEL, model_path
from rlhf_jax.runs.resident import available_bytes
from rlhf_jax.runs.trees import Given, TreeSpec, tree_specs
from rlhf_jax.sharding import infer_shardings, mesh_over, row_shards
from rlhf_jax.training import make_optimizers
from rlhf_jax.types import Params

MANY = 2**30
"""Steps: the size of an optimizer state does not depend on them, but a warm-up must fit in."""


_SMALL = 2**29
_RETAINED = 6
"""Times the temporaries of a program that a process holds at most which keeps freed memory: 3.09 GB
of page faults in 24 calls with 129 MB of temporaries became 0.77 GB, and 131 MB held became 772."""
_SHARE = 4
"""Only one part in so many of the free memory may be held like that."""


class Shapes(NamedTuple):
    """Trees of a run as shapes and dtypes."""

    trained: dict[str, Params]
    """By role."""
    frozen: dict[str, Params]
    """By role; read in every step."""
    rewards: dict[str, Params]
    """By label of the reward."""
    moments: Any
    """The optimizer's state."""
    compared: Params
    """The model of `evaluation.reference`; empty where there is none."""


class Work(NamedTuple):
    """What a run does at a time, over all devices."""

    rows: int
    """That the update reads at once: of a microbatch, or of a part of a packed batch."""
    width: int
    """Tokens of each."""
    is_summed: bool = False
    """Gradients are summed over several of these."""
    cached_tokens: int = 0
    """Places of the generation caches, of prompts and completions."""
    data: int = 0
    """Bytes of tokenised data."""


class Part(NamedTuple):
    """A line of a footprint."""

    name: str
    when: Literal["start", "held", "update", "sampling"]
    """Only before the first step; throughout; or at some times."""
    bytes: int
    """On one device."""


class Footprint(NamedTuple):
    """What a run is expected to hold on each device, in bytes."""

    parts: tuple[Part, ...]
    data: int
    """Tokenised, in the memory of the host."""
    checkpoint: int
    """Also there: the copy of the state that is written, over all devices."""
    saves_between: bool
    """Checkpoints are written while training goes on; else after the last step only."""

    def of(self, when: str) -> int:
        """All parts that are "held" throughout, or there in the "update" or while "sampling"."""
        return sum(part.bytes for part in self.parts if part.when == when)

    def peak(self, temporaries: int = 0) -> int:
        """The most that is there at one time.

        Args:
          temporaries: of the compiled update, gradients and activations included; 0: not known yet.
        """
        return self.of("held") + max(temporaries or self.of("update"), self.of("sampling"))

    def process_peak(self, devices: int, *, share: float = 1.0, temporaries: int = 0) -> int:
        """The same of a process whose devices are CPUs: these and the host share its memory.

        Args:
          devices: of the process.
          share: of the checkpoint that the process writes.
          temporaries: as for `peak`.
        """
        held = self.of("held")
        passing = (self.peak(temporaries) - held) * devices
        copy = round(share * self.checkpoint)
        passing = passing + copy if self.saves_between else max(passing, copy)
        return held * devices + passing + self.data


def is_small(config: Config) -> bool:
    """Whether keeping freed memory pays: steps of small models are fast enough that page faults
    count, and their peak is not much to keep.

    With the 135M parameters of SmolLM2 it doubled the resident memory of DPO and made nothing
    faster. What is held is bounded: by a share of the memory that is free.
    """
    if config.model.given or run_bytes(config) >= _SMALL:
        return False
    return _RETAINED * _most_temporaries(config) <= available_bytes() / _SHARE


def run_bytes(config: Config) -> int:
    """Bytes of parameters, optimizer state, reference model, critic and reward models, over all
    devices.

    Activations, generation caches, buffers of the compiler and what evaluations alone read are not
    in it.
    """
    return tree_bytes(run_shapes(config)._replace(compared={}))


def _most_temporaries(config: Config) -> int:
    """Bytes of gradients and activations over all devices, before data and devices are known: rows
    as wide as they may be, of which everything is kept."""
    training = config.training
    # What is not settled yet is one part at most.
    count = training.num_microbatches if training.num_microbatches != "auto" else 1
    rows = training.batch_size // count
    width = config.data.max_length
    if config.is_online:
        sampling = config.resolved_algorithm.sampling
        rows = rows * sampling.group_size // sampling.num_minibatches
        width = config.rollout.max_prompt_len + config.rollout.max_new_tokens
    else:
        rows *= ROWS[config.algorithm.data]
    shape = (max(rows, 1), width)
    trained = [spec for spec in tree_specs(config) if spec.is_trained]
    return sum(
        kept_bytes("none", architecture_of(config, spec), shape, _itemsize(config), mesh=None)
        + 2 * tree_bytes(tree_shapes(config, spec, None))
        for spec in trained
    )


def run_shapes(config: Config, given: Given | None = None) -> Shapes:
    """All trees of a run, nothing allocated.

    Args:
      config: a whole run.
      given: a model of one's own.
    """
    section = config.model
    specs = tree_specs(config)
    trained = {spec.role: tree_shapes(config, spec, given) for spec in specs if spec.is_trained}
    frozen = {spec.role: tree_shapes(config, spec, given) for spec in specs if not spec.is_trained}
    dtype = section.compute_dtype or section.dtype
    rewards = {
        reward.label: abstract_params(
            read_config(local_folder(model_path(reward))), "reward", dtype
        )
        for reward in config.rewards
        if reward.function == MODEL
    }
    tx = make_optimizers(config.optimizer, config.algorithm.models.trained, total_steps=MANY)
    compared: Params = {}
    if config.is_online and config.data.has_eval and config.evaluation.reference is not None:
        architecture = read_config(local_folder(config.evaluation.reference))
        compared = abstract_params(architecture, None, section.dtype)
    return Shapes(trained, frozen, rewards, jax.eval_shape(tx.init, trained), compared)


def footprint(config: Config, mesh: Mesh, work: Work, given: Given | None = None) -> Footprint:
    """What a run will hold on each device.

    Args:
      config: a whole run.
      mesh: of the run.
      work: what it does at a time.
      given: a model of one's own; its activations and caches are not known.
    """
    shapes = run_shapes(config, given)
    replicate = config.mesh.replicate

    def size(tree: Params, roles: Collection[str] = ()) -> int:
        return device_bytes(tree, mesh, replicate=replicate, roles=roles)

    *parts, moments = _held(config, mesh, shapes)
    if config.model.reference is not None and config.algorithm.models.reference == "once":
        # Of the policy's architecture; it leaves before there are moments and gradients.
        once = size(shapes.trained["policy"])
        parts.append(Part("parameters: reference, left before the first step", "start", once))
    parts.append(moments)
    parts += [
        Part(name, "update", size(tree, shapes.trained))
        for name, tree in gradients(shapes.trained, is_summed=work.is_summed).items()
    ]
    if given is None:
        parts.append(_activations(config, mesh, work))
        parts += _sampling(config, mesh, work, shapes.trained["policy"])
    copy = tree_bytes((shapes.trained, shapes.moments))
    saves_between = config.training.save_every > 0
    return Footprint(tuple(parts), work.data, copy, saves_between)


def gradients(trained: dict[str, Params], *, is_summed: bool) -> dict[str, Any]:
    """Gradients as shapes: like the parameters, and their sum over parts, in float32 at least.

    Args:
      trained: shapes of trees by role.
      is_summed: over microbatches, or parts of a packed batch.

    Returns:
      Name -> tree.
    """

    def wide(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32))

    found = {"gradients": trained}
    return found | {"sum of gradients": jax.tree.map(wide, trained)} if is_summed else found


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays in a tree."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_bytes(
    tree: Any, mesh: Mesh, *, replicate: Sequence[str] = (), roles: Collection[str] = ()
) -> int:
    """Bytes of a tree on each device of a mesh, by the sharding rules.

    Args:
      tree: arrays or shapes.
      mesh, replicate, roles: as for `infer_shardings`.
    """
    shardings = infer_shardings(tree, mesh, replicate=replicate, roles=roles)
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, sharding in pairs
    )


def cache_bytes(architecture: ModelConfig, mesh: Mesh, tokens: int, dtype: str) -> int:
    """Bytes of keys and values on each device.

    Args:
      architecture: of the policy.
      mesh: that rows and heads are divided over.
      tokens: over all devices.
      dtype: of keys and values.
    """
    heads = -(-architecture.num_kv_heads // dict(mesh.shape).get("tensor", 1))
    of_token = 2 * architecture.num_layers * heads * architecture.head_dim
    return -(-tokens // row_shards(mesh)) * of_token * jnp.dtype(dtype).itemsize


def held_bytes(config: Config, mesh: Mesh, given: Given | None = None) -> int:
    """Bytes that each device holds throughout: parameters and moments.

    Args:
      config: a whole run.
      mesh: of the run.
      given: a model of one's own.
    """
    return sum(part.bytes for part in _held(config, mesh, run_shapes(config, given)))


MOMENTS = "optimizer moments"
"""The name of a part."""
_ROLES = {"ref": "reference"}


def _held(config: Config, mesh: Mesh, shapes: Shapes) -> list[Part]:
    def size(tree: Params, roles: Collection[str] = ()) -> int:
        return device_bytes(tree, mesh, replicate=config.mesh.replicate, roles=roles)

    trees = {**shapes.trained, **{_ROLES.get(role, role): t for role, t in shapes.frozen.items()}}
    trees |= {f"reward model {label}": tree for label, tree in shapes.rewards.items()}
    if shapes.compared:
        trees["reference of evaluations"] = shapes.compared
    parts = [Part(f"parameters: {name}", "held", size(tree)) for name, tree in trees.items()]
    return [*parts, Part(MOMENTS, "held", size(shapes.moments, shapes.trained))]


def tree_shapes(config: Config, spec: TreeSpec, given: Given | None) -> Params:
    """The shapes of one tree.

    Args:
      config: a whole run.
      spec: the tree.
      given: a model of one's own.
    """
    if given is not None and spec.path is None:
        return jax.eval_shape(dict, given[1])
    return abstract_params(architecture_of(config, spec), spec.head, config.model.dtype)


def architecture_of(config: Config, spec: TreeSpec) -> ModelConfig:
    """Of one tree; a folder's config.json is read.

    Args:
      config: a whole run.
      spec: the tree.
    """
    path = spec.path or config.model.path
    if path is None:
        return ModelConfig.from_hf(config.model.config or {})
    return read_config(local_folder(path))


def _itemsize(config: Config) -> int:
    """Bytes of an activation."""
    return jnp.dtype(config.model.compute_dtype or config.model.dtype).itemsize


def _activations(config: Config, mesh: Mesh, work: Work) -> Part:
    """What the layers of all trained trees keep for the backward pass."""
    section = config.model
    shape = (work.rows, work.width)
    total = 0
    remat: str = section.remat
    for spec in tree_specs(config):
        if not spec.is_trained:
            continue
        architecture = architecture_of(config, spec)
        unrolled = Execution(layers=section.layers).unrolled(architecture.num_layers)
        name: str = section.remat
        if name == "auto":
            name = choose(architecture, shape, _itemsize(config), mesh=mesh, unrolled=unrolled)
        total += kept_bytes(name, architecture, shape, _itemsize(config), mesh=mesh)
        remat = name if spec.role == "policy" else remat
    return Part(f"activations kept of {work.rows} x {work.width} ({remat})", "update", total)


def _sampling(config: Config, mesh: Mesh, work: Work, policy: Params) -> list[Part]:
    """Caches, and the parameters that the sampler reads where it does not read the trained ones."""
    if not work.cached_tokens:
        return []
    section = config.model
    architecture = architecture_of(config, tree_specs(config)[0])
    if config.rollout.mesh is not None:
        mesh = mesh_over(mesh, config.rollout.mesh)
    dtype = section.compute_dtype or section.dtype
    size = cache_bytes(architecture, mesh, work.cached_tokens, dtype)
    parts = [Part("generation caches", "sampling", size)]
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    execution = Execution(layers=section.layers)
    if on_cpu and execution.decodes_unrolled(architecture.num_layers):
        size = device_bytes({"layers": policy["layers"]}, mesh, replicate=config.mesh.replicate)
        parts.append(Part("layers laid out to decode", "sampling", size))
    if dtype != section.dtype or config.rollout.mesh is not None:

        def cast(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype))

        size = device_bytes(jax.tree.map(cast, policy), mesh, replicate=config.mesh.replicate)
        parts.append(Part(f"parameters to sample with ({dtype})", "sampling", size))
    return parts
