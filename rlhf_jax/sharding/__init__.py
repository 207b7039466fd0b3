"""One device mesh, and two tables that say how arrays lie on it."""

from rlhf_jax.sharding.mesh import (
    BATCH_AXES,
    MESH_AXES,
    MeshConfig,
    make_mesh,
    mesh_over,
    row_shards,
)
from rlhf_jax.sharding.place import needs_blocking, place_batch
from rlhf_jax.sharding.rules import (
    AXIS_RULES,
    PARAM_RULES,
    batch_sharding,
    constrain,
    infer_shardings,
    replicated,
    tree_bytes_per_device,
)

__all__ = [
    "AXIS_RULES",
    "BATCH_AXES",
    "MESH_AXES",
    "PARAM_RULES",
    "MeshConfig",
    "batch_sharding",
    "constrain",
    "infer_shardings",
    "make_mesh",
    "mesh_over",
    "needs_blocking",
    "place_batch",
    "replicated",
    "row_shards",
    "tree_bytes_per_device",
]
