"""Devices of TPU slices that are not there: what the compiler in libtpu compiles for."""

import functools
import importlib.util
import os

import pytest
from jax.experimental import topologies

TPU_COMPILER = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='needs the TPU compiler: pip install --no-deps "libtpu==0.0.42.1"',
)
"""Marks tests that compile for TPUs; no TPU is needed."""


@functools.cache
def tpu_devices(name):
    """Devices of "v5e:4x4", "v5p:4x4x4", "v6e:8x8"."""
    # Nobody is asked which TPU this machine has, and several processes may compile.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    kind, _, shape = name.partition(":")
    # Without `wrap` a v5p cube is taken for an open grid: its gathers become all-reduces.
    cube = kind == "v5p" and all(int(side) % 4 == 0 for side in shape.split("x"))
    wrap = {"wrap": (True, True, True)} if cube else {}
    return topologies.get_topology_desc(platform="tpu", topology_name=name, **wrap).devices
