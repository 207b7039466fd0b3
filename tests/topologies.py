"""Devices of TPU slices that are not there: what the compiler in libtpu compiles for."""

import functools
import importlib.util

import pytest

from rlhf_jax.runs.plan.machines import devices_of, parse_machine

TPU_COMPILER = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='needs the TPU compiler: pip install --no-deps "libtpu==0.0.42.1"',
)
"""Marks tests that compile for TPUs; no TPU is needed."""


@functools.cache
def tpu_devices(name):
    """Devices of "v5e:4x4", "v5p:4x4x4", "v6e:8x8"."""
    return devices_of(parse_machine(name)).devices
