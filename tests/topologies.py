"""Devices that are not there: what the compilers of TPUs and GPUs compile for."""

import functools
import importlib.util

import pytest

from rlhf_jax.runs.plan.machines import devices_of, parse_machine

TPU_COMPILER = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='needs the TPU compiler: pip install --no-deps "libtpu==0.0.42.1"',
)
"""Marks tests that compile for TPUs; no TPU is needed."""

GPU_COMPILER = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None,
    reason="needs the GPU compiler: pip install --no-deps -c constraints.txt jax-cuda12-plugin "
    "jax-cuda12-pjrt nvidia-cudnn-cu12",
)
"""Marks tests that compile for GPUs; neither a GPU nor a driver is needed."""


@functools.cache
def absent_devices(name):
    """Devices of "v5e:4x4", "v5p:4x4x4", "v6e:8x8", "h100x8"."""
    return devices_of(parse_machine(name)).devices
