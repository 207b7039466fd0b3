"""Arrays of a checkpoint in S3, which orbax itself cannot write: a handler for its manager.

Orbax writes arrays through TensorStore to disks and to `gs://`; TensorStore also knows S3. Here
every process writes its shards as chunks of zarr arrays, one array a leaf, and the leader writes
`tree.json`, with the shapes and dtypes by the leaves' names. A chunk never holds parts of two
shards, so no two processes write the same object. Nothing is compressed: trained weights hardly
get smaller.
"""

import asyncio
import dataclasses
import functools
import json
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from rlhf_jax.cloud import Place, is_address
from rlhf_jax.sharding.processes import is_leader

LAYOUT = "tree.json"
CHUNK_BYTES = 128 << 20
"""Of an object, at most, where the shard's shape can be halved."""


class TreeHandler(ocp.AsyncCheckpointHandler):
    """Writes and reads a tree of arrays. Typed random keys are kept as their words."""

    def save(self, directory: Place, *args: Any, **options: Any) -> None:
        """Writes, and waits for it."""
        for future in asyncio.run(self.async_save(directory, *args, **options)) or ():
            future.result()

    async def async_save(self, directory: Place, args: "SaveTree") -> list[Any]:
        """Copies the shards to the host, and writes them in the background.

        Returns:
          What is to be waited for.
        """
        leaves = {name: _words(leaf) for name, leaf in _named(args.item)}
        for leaf in leaves.values():
            leaf.copy_to_host_async()
        futures: list[Any] = []
        for name, leaf in leaves.items():
            spec = _spec(directory / name, leaf)
            if is_leader():
                futures.append(_open(spec, create=True))
            # Everybody knows the metadata: nothing is asked of the bucket.
            store = _open(spec, assume_metadata=True).result()
            # A copy: the next update takes the place of the state.
            futures += [
                store[shard.index].write(np.array(shard.data)).commit
                for shard in leaf.addressable_shards
                if shard.replica_id == 0
            ]
        if is_leader():
            layout = {
                name: [list(leaf.shape), str(leaf.dtype), _key_kind(original)]
                for (name, original), leaf in zip(_named(args.item), leaves.values(), strict=True)
            }
            (directory / LAYOUT).write_text(json.dumps(layout))
        return futures

    def restore(self, directory: Place, args: "RestoreTree") -> Any:
        """Reads the arrays that a tree of shapes names, onto its shardings; without one they stay
        on the host."""
        kept = _layout(directory)
        names = [name for name, _ in _named(args.item)]
        leaves, structure = jax.tree.flatten(args.item)
        stores = [_open(_spec(directory / name, None), read=True) for name in names]
        found = []
        for name, leaf, store in zip(names, leaves, stores, strict=True):
            array = _read(store.result(), getattr(leaf, "sharding", None))
            is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            found.append(jax.random.wrap_key_data(array, impl=kept[name][2]) if is_key else array)
        return jax.tree.unflatten(structure, found)

    def metadata(self, directory: Place) -> dict[str, Any]:
        """Shapes and dtypes by the first part of the leaves' names, then by the rest of it."""
        tree: dict[str, Any] = {}
        for name, (shape, dtype, _) in _layout(directory).items():
            first, _, rest = name.partition("/")
            leaf = jax.ShapeDtypeStruct(tuple(shape), jax.numpy.dtype(dtype))
            if rest:
                tree.setdefault(first, {})[rest] = leaf
            else:
                tree[first] = leaf
        return tree


@ocp.args.register_with_handler(TreeHandler, for_save=True)
@dataclasses.dataclass
class SaveTree(ocp.args.CheckpointArgs):
    """What is saved: a tree of `jax.Array`."""

    item: Any


@ocp.args.register_with_handler(TreeHandler, for_restore=True)
@dataclasses.dataclass
class RestoreTree(ocp.args.CheckpointArgs):
    """What is read: a tree of `jax.ShapeDtypeStruct`, or of arrays like those that are wanted."""

    item: Any


def _named(tree: Any) -> list[tuple[str, Any]]:
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _words(leaf: jax.Array) -> jax.Array:
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _key_kind(leaf: jax.Array) -> str | None:
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return str(jax.random.key_impl(leaf)) if is_key else None


def _layout(directory: Place) -> dict[str, tuple[Sequence[int], str, str | None]]:
    return json.loads((directory / LAYOUT).read_bytes())


def _spec(place: Place, leaf: jax.Array | None) -> dict[str, Any]:
    """How TensorStore finds an array; with a leaf, also what it is like."""
    spec: dict[str, Any] = {"driver": "zarr", "kvstore": _store(place)}
    if leaf is not None:
        spec |= {
            "dtype": str(leaf.dtype),
            "metadata": {
                "shape": list(leaf.shape),
                "chunks": _chunks(leaf),
                "compressor": None,
            },
            "store_data_equal_to_fill_value": True,
        }
    return spec


@functools.cache
def _context() -> tensorstore.Context:
    """Of all arrays: credentials are looked for once."""
    return tensorstore.Context()


def _open(spec: dict[str, Any], **how: Any) -> Any:
    return tensorstore.open(spec, open=True, context=_context(), **how)


def _store(place: Place) -> dict[str, Any]:
    if not is_address(place):
        return {"driver": "file", "path": os.fspath(place)}
    bucket, _, path = os.fspath(place).partition("://")[2].partition("/")
    store: dict[str, Any] = {"driver": "s3", "bucket": bucket, "path": path}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    # TensorStore does not read these itself, s3fs does.
    if endpoint:
        store["endpoint"] = endpoint
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        # without this it complains of each file that it does not find
        store["aws_credentials"] = {"type": "environment"}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region:
        store["aws_region"] = region
    return store


def _chunks(leaf: jax.Array) -> list[int]:
    """A shard, or as many equal parts of it as make `CHUNK_BYTES`."""
    chunk = [max(size, 1) for size in leaf.sharding.shard_shape(leaf.shape)]
    while math.prod(chunk) * leaf.dtype.itemsize > CHUNK_BYTES:
        even = [axis for axis, size in enumerate(chunk) if size % 2 == 0]
        if not even:
            break
        chunk[max(even, key=lambda axis: chunk[axis])] //= 2
    return chunk


def _read(store: Any, sharding: Any) -> Any:
    if sharding is None:
        return store.read().result()
    shape = tuple(store.shape)
    # All are asked for before the first is waited for.
    parts = {
        _key(index, shape): store[index].read()
        for index in sharding.addressable_devices_indices_map(shape).values()
    }
    return jax.make_array_from_callback(
        shape, sharding, lambda index: parts[_key(index, shape)].result()
    )


def _key(index: Any, shape: tuple[int, ...]) -> tuple[tuple[int, int, int], ...]:
    return tuple(part.indices(size) for part, size in zip(index or (), shape, strict=True))
