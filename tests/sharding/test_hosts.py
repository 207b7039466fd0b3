"""Which devices of a mesh stand together, and what is said when they do not."""

import dataclasses
import logging
from types import SimpleNamespace

import numpy as np
import pytest

from rlhf_jax.sharding import processes
from rlhf_jax.sharding.hosts import devices_of_a_host, warn_of_tensor_between_hosts


@dataclasses.dataclass(frozen=True)
class Card:
    """Stands in for a GPU."""

    process_index: int
    platform: str = "gpu"


def mesh_of(tensor, owners, platform="gpu"):
    cards = np.array([Card(owner, platform) for owner in owners], object)
    return SimpleNamespace(devices=cards.reshape(1, -1, tensor), shape={"tensor": tensor})


@pytest.mark.parametrize(
    ("tensor", "owners", "platform", "said"),
    [
        (2, [0, 0, 1, 1], "gpu", False),
        (4, [0, 0, 1, 1], "gpu", True),
        (4, [0, 0, 1, 1], "tpu", False),  # one network
        (1, [0, 1, 2, 3], "gpu", False),
    ],
)
def test_tensor_between_machines_is_said(tensor, owners, platform, said, caplog):
    with caplog.at_level(logging.WARNING, "rlhf_jax"):
        warn_of_tensor_between_hosts(mesh_of(tensor, owners, platform))
    assert ("goes over several machines" in caplog.text) == said


def test_processes_of_one_machine_are_near_each_other(monkeypatch):
    """SLURM starts a process for each GPU."""
    mesh = mesh_of(2, [0, 1, 2, 3])
    assert devices_of_a_host(mesh) == 1
    monkeypatch.setattr(processes, "_joined", SimpleNamespace(machines=["a", "a", "b", "b"]))
    assert devices_of_a_host(mesh) == 2
