"""A digest of every bit of a tree of arrays, taken where the arrays lie.

Nothing large moves: each array is reduced on its devices to two 32-bit sums over well-mixed words,
which wrap and therefore do not depend on the order of summation, so the digest is the same however
the arrays are sharded. Changing one element always changes the first sum (the mixing is a bijection
of the word, for each place); changing several at once goes unnoticed with a probability of about
2^-64. It finds damage, not malice: nothing in it is secret.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

VERSION = "v2:"
"""In front of every digest; an earlier version had none, and its sums missed two flipped signs in
one array."""


class Leaf(NamedTuple):
    """Shape and dtype of one array as it is stored (a PRNG key by its words)."""

    shape: tuple[int, ...]
    dtype: str


def tree_leaves(prefix: str, tree: Any) -> Iterator[tuple[str, Leaf]]:
    """Names (`params/embed/embedding`, for dicts and NamedTuples alike) and shapes of a tree."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
        yield (f"{prefix}/{name}" if prefix else name), Leaf(tuple(leaf.shape), str(leaf.dtype))


def layout_fingerprint(tree: Any) -> str:
    """A digest of names, shapes and dtypes alone."""
    lines = [f"{name}:{leaf.shape}:{leaf.dtype};" for name, leaf in tree_leaves("", tree)]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def params_fingerprint(params: Any) -> str:
    """A digest of names, shapes, dtypes and every bit of a tree of arrays.

    Args:
        params: nested dicts, tuples and NamedTuples of arrays; typed PRNG keys are allowed.

    Returns:
        Hexadecimal digits, the same on every process and mesh.

    Raises:
        ValueError: a dtype whose bits cannot be read as bytes or words.
    """
    return fingerprints({"": params})[""]


def fingerprints(trees: Mapping[str, Any]) -> dict[str, str]:
    """`params_fingerprint` of several trees in one program.

    Args:
        trees: name -> tree.

    Returns:
        Name -> digest.
    """
    leaves = {name: jax.tree.leaves(tree) for name, tree in trees.items()}
    # on the host: one at a time
    if all(isinstance(leaf, np.ndarray) for tree in leaves.values() for leaf in tree):
        sums = {
            name: [jax.device_get(_checksums(leaf)) for leaf in tree]
            for name, tree in leaves.items()
        }
    else:
        sums = jax.device_get(_checksums(leaves))
    digests = {}
    for name, tree in trees.items():
        lines = [
            f"{path}:{leaf.shape}:{leaf.dtype}:{int(pair[0])}:{int(pair[1])};"
            for (path, leaf), pair in zip(tree_leaves("", tree), sums[name], strict=True)
        ]
        digests[name] = VERSION + hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
    return digests


@jax.jit
def _checksums(leaves: Any) -> Any:
    return jax.tree.map(_checksum, leaves)


def _words(x: Array) -> Array:
    """The bits of an array as 32-bit words; one of 64-bit numbers gains an axis of two."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    width = x.dtype.itemsize
    if width not in (1, 2, 4, 8) or jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(f"fingerprints cover arrays of 8 to 64 bits, got {x.dtype}")
    same_width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[width]
    return jax.lax.bitcast_convert_type(x, same_width).astype(jnp.uint32)


def _checksum(x: Array) -> Array:
    words = _words(x)
    index = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        index = index * jnp.uint32(size) + place
    # MurmurHash3's finaliser: without it, flips of the highest bit of two elements would cancel in
    # both sums.
    mixed = words ^ (index * jnp.uint32(0x9E3779B1) + jnp.uint32(0x7F4A7C15))
    mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
    mixed = mixed ^ (mixed >> 16)
    first = mixed.sum(dtype=jnp.uint32)
    second = (mixed * (index * jnp.uint32(2) + jnp.uint32(1))).sum(dtype=jnp.uint32)
    return jnp.stack([first, second])
