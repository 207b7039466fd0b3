"""What is taken out of a stored checkpoint: a whole state, the parts of it that fit, parameters."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding

from rlhf_jax.io.errors import CheckpointError
from rlhf_jax.io.fingerprint import tree_leaves
from rlhf_jax.io.seal import Meta
from rlhf_jax.io.stored import Parts, StoredStep, check_fits, leaf_name
from rlhf_jax.sharding import replicated
from rlhf_jax.types import Params


def read_state(stored: StoredStep, wanted: Mapping[str, Any]) -> tuple[dict[str, Any], Meta]:
    """The items `params` and `rest`, which must fit in names, shapes and dtypes."""
    meta = stored.meta()
    layouts = stored.layouts(meta)
    check_fits(stored.folder, "params", wanted["params"], layouts["params"], dtypes=True)
    check_fits(stored.folder, "", wanted["rest"], layouts["rest"], dtypes=True)
    return stored.arrays(wanted, meta), meta


def read_parts(stored: StoredStep, params: Params, rest: Mapping[str, Any]) -> Parts:
    """`params`, which must fit, and those fields of `rest` that do."""
    meta = stored.meta()
    layouts = stored.layouts(meta)
    check_fits(stored.folder, "params", params, layouts["params"], dtypes=True)
    # What does not fit is read too, as orbax reads whole items, but stays on the host; of several
    # processes none can hold an array alone.
    whole = _whole(params) if jax.process_count() > 1 else None
    wanted = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
        dict(layouts["rest"]),
    )
    unfit: dict[str, str] = {}
    for name, tree in rest.items():
        try:
            check_fits(stored.folder, name, tree, layouts["rest"].get(name, {}), dtypes=True)
            wanted[name] = tree
        except CheckpointError as error:
            unfit[name] = str(error).removeprefix(f"{stored.folder}: ")
    over = wanted.keys() - (rest.keys() - unfit.keys())
    found = stored.arrays({"params": params, "rest": wanted}, meta, passed_over=over)
    kept = {name: found["rest"][name] for name in rest if name not in unfit}
    return Parts({"params": found["params"]} | kept, unfit, meta.run)


def _whole(params: Params) -> NamedSharding:
    """Every device holds all, on the mesh of some parameters."""
    return replicated(jax.tree.leaves(params)[0].sharding.mesh)


def read_params(stored: StoredStep, abstract_params: Params) -> Params:
    """The parameters in the dtypes that are stored, which their digest is of."""
    meta = stored.meta()
    layout = stored.layouts(meta)["params"]
    check_fits(stored.folder, "params", abstract_params, layout, dtypes=False)
    kept = dict(tree_leaves("", layout))
    wanted = jax.tree_util.tree_map_with_path(
        lambda path, x: jax.ShapeDtypeStruct(
            x.shape, kept[leaf_name(path)].dtype, sharding=x.sharding
        ),
        abstract_params,
    )
    return stored.arrays({"params": wanted}, meta)["params"]
