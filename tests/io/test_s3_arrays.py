"""Arrays written by TensorStore, in a folder of the disk: any tree, onto any mesh."""

import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax.io import s3_arrays
from rlhf_jax.io.fingerprint import fingerprints, layout_fingerprint
from rlhf_jax.io.s3_arrays import RestoreTree, SaveTree, TreeHandler
from rlhf_jax.sharding import make_mesh


class Moments(NamedTuple):
    count: Any
    mu: Any


@pytest.fixture
def handler():
    return TreeHandler()


def state(mesh, spec):
    whole = NamedSharding(mesh, PartitionSpec())
    rows = NamedSharding(mesh, PartitionSpec(*spec))
    table = np.arange(64, dtype=np.float32).reshape(8, 8) * -0.0
    table[3, 4] = 1.5
    return {
        "table": jax.device_put(table, rows),
        "low": jax.device_put(jnp.full((8, 4), -1.25, jnp.bfloat16), rows),
        "empty": jax.device_put(jnp.zeros((0, 3)), whole),
        "opt": (
            Moments(jax.device_put(jnp.int32(7), whole), {"a/b": jax.device_put(table, rows)}),
        ),
        "key": jax.device_put(jax.random.key(3, impl="rbg"), whole),
        "flag": jax.device_put(jnp.array([True, False]), whole),
    }


def structs(tree):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree
    )


@pytest.mark.parametrize("chunk", [128 << 20, 64])
def test_what_is_written_is_read_on_another_mesh(handler, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(s3_arrays, "CHUNK_BYTES", chunk)
    saved = state(make_mesh({"fsdp": 4, "data": 2}), ("fsdp", None))
    folder = epath.Path(tmp_path)
    handler.save(folder, SaveTree(saved))
    other = state(make_mesh({"tensor": 2}, devices=jax.devices()[:2]), (None, "tensor"))
    found = handler.restore(folder, RestoreTree(structs(other)))
    assert fingerprints({"": found}) == fingerprints({"": saved})
    for ours, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(other), strict=True):
        assert ours.dtype == wanted.dtype and ours.sharding == wanted.sharding
    assert jax.random.key_impl(found["key"]) == jax.random.key_impl(saved["key"])


def test_without_a_sharding_arrays_stay_on_the_host(handler, tmp_path):
    saved = state(make_mesh({"fsdp": 8}), ("fsdp",))
    handler.save(epath.Path(tmp_path), SaveTree(saved))
    layout = handler.metadata(epath.Path(tmp_path))
    assert layout_fingerprint(layout) == layout_fingerprint(saved)
    found = handler.restore(epath.Path(tmp_path), RestoreTree(layout))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))
    assert set(layout) == set(saved)


def test_no_two_shards_share_an_object(handler, tmp_path):
    mesh = make_mesh({"fsdp": 4}, devices=jax.devices()[:4])
    table = jax.device_put(jnp.ones((8, 8)), NamedSharding(mesh, PartitionSpec("fsdp")))
    handler.save(epath.Path(tmp_path), SaveTree({"table": table}))
    described = json.loads((tmp_path / "table" / ".zarray").read_text())
    assert described["chunks"] == [2, 8]
    objects = {file.name for file in (tmp_path / "table").iterdir()}
    assert objects == {".zarray", "0.0", "1.0", "2.0", "3.0"}


def test_the_state_may_change_while_it_is_written(handler, tmp_path):
    import asyncio

    table = jnp.zeros((256, 256))
    futures = asyncio.run(handler.async_save(epath.Path(tmp_path), SaveTree({"table": table})))
    overwritten = jax.jit(lambda x: x + 1, donate_argnums=0)(table)
    overwritten.block_until_ready()
    for future in futures:
        future.result()
    wanted = {"table": jax.ShapeDtypeStruct((256, 256), jnp.float32)}
    found = handler.restore(epath.Path(tmp_path), RestoreTree(wanted))
    assert not found["table"].any()
