"""The tiny runs of the loop tests, for whole runs; and algorithms of one's own in the registry."""

import pytest

from rlhf_jax.algorithms import ALGORITHMS, register
from tests.loops.conftest import mixed_task, online_config, tiny_config
from tests.runs.own import DistillConfig, ReinforceConfig, make_distill, make_reinforce

__all__ = ["mixed_task", "online_config", "tiny_config"]


@pytest.fixture(autouse=True)
def own_algorithms():
    """Registered while a test of this folder runs."""
    before = dict(ALGORITHMS)
    register("reinforce", ReinforceConfig, make_reinforce)
    register("distill", DistillConfig, make_distill)
    yield
    ALGORITHMS.clear()
    ALGORITHMS.update(before)
