"""Meshes of real TPU topologies: every factorisation is one."""

import itertools
import math

import pytest

from rlhf_jax.sharding import MESH_AXES, make_mesh, mesh_over
from tests.topologies import TPU_COMPILER, absent_devices

pytestmark = TPU_COMPILER


@pytest.mark.parametrize(
    "name", ["v5e:4x4", "v5e:8x8", "v5e:16x16", "v5p:4x4x4", "v6e:4x4", "v6e:8x8", "v6e:16x16"]
)
def test_every_factorisation_gives_a_mesh(name):
    devices = absent_devices(name)
    divisors = [n for n in range(1, len(devices) + 1) if len(devices) % n == 0]
    tried = 0
    for shape in itertools.product(divisors, repeat=3):
        if math.prod(shape) != len(devices):
            continue
        mesh = make_mesh(dict(zip(MESH_AXES, shape, strict=True)), devices=devices)
        assert mesh.devices.shape == shape
        assert len({device.id for device in mesh.devices.flat}) == len(devices)
        tried += 1
    assert tried >= 15


def test_a_rollout_mesh_has_the_training_meshs_order():
    trained = make_mesh({"fsdp": 64}, devices=absent_devices("v6e:8x8"))
    mesh = mesh_over(trained, {"data": 8, "tensor": 8})
    assert list(mesh.devices.flat) == list(trained.devices.flat)
    # Arranged for itself it has another order: that is why it is laid over the other one.
    own = make_mesh({"data": 8, "tensor": 8}, devices=absent_devices("v6e:8x8"))
    assert list(own.devices.flat) != list(trained.devices.flat)
