"""One device mesh, two tables that say how arrays lie on it, and the processes that share it."""

from rlhf_jax.sharding.cluster import DistributedConfig
from rlhf_jax.sharding.mesh import (
    BATCH_AXES,
    MESH_AXES,
    MeshConfig,
    make_mesh,
    mesh_over,
    row_shards,
)
from rlhf_jax.sharding.parts import in_parts
from rlhf_jax.sharding.place import (
    fetch,
    needs_blocking,
    own_rows,
    place_batch,
    place_tree,
    place_whole,
)
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
    "DistributedConfig",
    "MeshConfig",
    "batch_sharding",
    "constrain",
    "fetch",
    "in_parts",
    "infer_shardings",
    "make_mesh",
    "mesh_over",
    "needs_blocking",
    "own_rows",
    "place_batch",
    "place_tree",
    "place_whole",
    "replicated",
    "row_shards",
    "tree_bytes_per_device",
]
