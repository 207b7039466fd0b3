"""Two tables: parameter name -> logical axes, logical axis -> mesh axes; and their application to
whole states.

The tables apply to any tree whose leaf paths end in a parameter's name, so optimizer moments follow
their parameters: ``opt_state/0/mu/layers/attn/q/kernel`` lies as ``params/layers/attn/q/kernel``
does. What matches no rule, and a dimension that does not divide, are errors: replication is asked
for by name, never fallen back to.
"""

import math
import re
from collections.abc import Collection, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from rlhf_jax.sharding.mesh import BATCH_AXES

PARAM_RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"(^|/)(embed/embedding|unembed/kernel)$", ("vocab", None)),
    (r"(^|/)position/embedding$", (None, "embed")),
    (r"(^|/)layers/attn/q/kernel$", ("layers", "embed", "heads", "head_dim")),
    (r"(^|/)layers/attn/[kv]/kernel$", ("layers", "embed", "kv_heads", "head_dim")),
    (r"(^|/)layers/attn/o/kernel$", ("layers", "heads", "head_dim", "embed")),
    (r"(^|/)layers/attn/q/bias$", ("layers", "heads", "head_dim")),
    (r"(^|/)layers/attn/[kv]/bias$", ("layers", "kv_heads", "head_dim")),
    (r"(^|/)layers/attn/o/bias$", ("layers", "norm")),
    (r"(^|/)layers/attn/[qk]_norm/scale$", ("layers", "head_dim")),
    (r"(^|/)layers/mlp/(gate|up)/kernel$", ("layers", "embed", "mlp")),
    (r"(^|/)layers/mlp/down/kernel$", ("layers", "mlp", "embed")),
    (r"(^|/)layers/mlp/(gate|up)/bias$", ("layers", "mlp")),
    (r"(^|/)layers/mlp/down/bias$", ("layers", "norm")),
    (r"(^|/)layers/(attn|mlp)(_post)?_norm/(scale|bias)$", ("layers", "norm")),
    (r"(^|/)final_norm/(scale|bias)$", ("norm",)),
    (r"(^|/)score/kernel$", ("norm",)),
)
"""Regular expression on the "/"-joined path -> logical axis of each dimension. The first match
holds."""

AXIS_RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": BATCH_AXES,
    "vocab": ("tensor", "fsdp"),
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "seq": None,
    "head_dim": None,
    "layers": None,
    "norm": None,
    "logits": "tensor",
    "draws": (*BATCH_AXES, "tensor"),
}
"""Logical axis -> mesh axes; None is replicated. Vectors (`norm`) are replicated: they are too
small to gather. `logits` is the vocabulary beside rows, which have taken `fsdp`; `draws` are rows
from each of which one token is drawn."""

_REPLICATED = re.compile(r"(^|/)(v_row|v_col)/")
"""Adafactor's factored moments have other ranks than their parameters and are small: whole on every
device."""


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of every leaf of a batch: the leading axis over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def constrain(x: Array, mesh: Mesh | None, logical_axes: Sequence[str | None]) -> Array:
    """Pins the layout of an intermediate, such as the residual stream ``("batch", "seq",
    "embed")``.

    `embed` is a parameter axis: activations keep their width whole, so here it maps to None.

    Args:
      x: any array; its rank is the number of logical axes.
      mesh: None on a single device outside a mesh; then `x` is returned as it is.
      logical_axes: one name (a key of `AXIS_RULES`) or None per dimension.

    Returns:
      `x`; the gradient is pinned in the same way.
    """
    if mesh is None or mesh.size == 1:
        return x
    spec = PartitionSpec(
        *(None if axis in (None, "embed") else AXIS_RULES[axis] for axis in logical_axes)
    )
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def infer_shardings(
    tree: Any, mesh: Mesh, *, replicate: Sequence[str] = (), roles: Collection[str] = ()
) -> Any:
    """Where every leaf of a tree lies, from its name.

    Args:
      tree: arrays or `jax.ShapeDtypeStruct`s: parameters, optimizer state or a whole `TrainState`.
      mesh: the device mesh.
      replicate: regular expressions of names to keep whole although a rule would divide them. They
        are matched below the role, so that one pattern means the same when a model is loaded, in
        the train state and in the moments.
      roles: names of the trees in it ("policy", "critic"), where it holds trees by role.

    Returns:
      A tree of `NamedSharding` of the same structure. Scalars and the few bookkeeping leaves are
      replicated.

    Raises:
      ValueError: a name that no rule matches, a rank that differs from its rule, one mesh axis used
        twice, or a dimension that its mesh axes do not divide; the message names the leaf.
    """

    def leaf_sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = path_name(path)
        spec = _spec(name, tuple(leaf.shape), mesh, replicate, below_role(name, roles))
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(leaf_sharding, tree)


def path_name(path: Sequence[Any]) -> str:
    """A key path as "a/b/0/c"."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def below_role(name: str, roles: Collection[str]) -> str:
    """What a parameter is called in its own tree: the part of a name behind the last role."""
    parts = name.split("/")
    last = max((place for place, part in enumerate(parts) if part in roles), default=-1)
    return "/".join(parts[last + 1 :])


def tree_bytes_per_device(tree: Any) -> dict[jax.Device, int]:
    """Bytes of a tree of arrays that each device holds."""
    held: dict[jax.Device, int] = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return held


def _spec(
    name: str, shape: tuple[int, ...], mesh: Mesh, replicate: Sequence[str], own: str
) -> PartitionSpec:
    scalar_like = math.prod(shape) == 1 or name.rsplit("/", 1)[-1] == "skipped"
    if (
        scalar_like
        or _REPLICATED.search(name)
        or any(re.search(pattern, own) for pattern in replicate)
    ):
        return PartitionSpec()
    logical = next((axes for pattern, axes in PARAM_RULES if re.search(pattern, name)), None)
    if logical is None:
        raise ValueError(
            f"no sharding rule matches {name!r} {shape}; add one to PARAM_RULES or list it in "
            "mesh.replicate"
        )
    if len(logical) != len(shape):
        raise ValueError(
            f"{name!r} has shape {shape}, but its rule names {len(logical)} axes {logical}"
        )
    axes = [AXIS_RULES[axis] if axis is not None else None for axis in logical]
    _check(name, shape, axes, mesh)
    return PartitionSpec(*axes)


def _check(
    name: str, shape: tuple[int, ...], axes: Sequence[str | tuple[str, ...] | None], mesh: Mesh
) -> None:
    used: list[str] = []
    for size, axis in zip(shape, axes, strict=True):
        several = (axis,) if isinstance(axis, str) else axis
        names = several or ()
        parts = math.prod(mesh.shape[n] for n in names)
        if size % parts:
            raise ValueError(
                f"{name!r} of shape {shape}: dimension {size} does not divide over mesh axes "
                f"{names} of total size {parts}; "
                f"change the mesh, or keep it whole with mesh.replicate: ['{name.split('/')[-2]}']"
            )
        used += names
    if len(used) != len(set(used)):
        raise ValueError(f"{name!r}: a mesh axis is used for two dimensions: {axes}")
