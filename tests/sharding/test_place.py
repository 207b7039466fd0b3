"""Host arrays on a mesh, and back."""

import jax
import numpy as np
import pytest

from rlhf_jax.sharding import fetch, make_mesh, own_rows, place_batch, place_tree, place_whole
from rlhf_jax.sharding.rules import batch_sharding, replicated


@pytest.mark.parametrize("sizes", [{"data": 2, "fsdp": 2}, {"fsdp": 4, "tensor": 2}, {}])
def test_what_is_placed_comes_back(sizes):
    mesh = make_mesh(sizes)
    batch = {"x": np.arange(16).reshape(8, 2), "y": np.arange(8) > 3}
    for placed, sharding in (
        (place_batch(batch, mesh), batch_sharding(mesh)),
        (place_whole(batch, mesh), replicated(mesh)),
        (place_tree(batch, dict.fromkeys(batch, replicated(mesh))), replicated(mesh)),
    ):
        assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(placed))
        jax.tree.map(np.testing.assert_array_equal, fetch(placed), batch)


def test_one_process_owns_every_row():
    assert own_rows(make_mesh({"data": 2, "fsdp": 2}), 8) == set(range(8))
