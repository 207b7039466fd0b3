"""A checkpoint of any mesh and number of processes is read by any other."""

import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import pytest

from rlhf_jax.runs import train
from rlhf_jax.runs.export import load_checkpoint
from rlhf_jax.sharding import MeshConfig, make_mesh
from tests.processes.conftest import weights_of

pytestmark = pytest.mark.timeout(1200)
TRAINING = {"max_steps": 3, "save_every": 3, "eval_every": 0}


def params_of(run_dir, sizes):
    count = int(np.prod(list(sizes.values())))
    mesh = make_mesh(sizes, devices=jax.devices()[:count])
    _, params = load_checkpoint(pathlib.Path(run_dir), None, mesh=mesh)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def continued(config, start, tmp_path, *, count, mesh):
    """The export of a run that two processes take up where it ended: its weights as they were."""
    copy = tmp_path / "copy"
    shutil.copytree(config.run_dir, copy)
    shutil.rmtree(copy / "export")
    other = dataclasses.replace(config, run_dir=str(copy), mesh=MeshConfig(**mesh))
    for ended in start(other, count).wait():
        assert ended.code == 0, ended.text
    return weights_of(other)


@pytest.mark.slow
def test_eight_devices_to_others(tiny_config, start, tmp_path):
    config = tiny_config("sft", mesh={"fsdp": 8}, training=TRAINING)
    train(config, progress=False)
    saved = params_of(config.run_dir, {"fsdp": 8})
    for sizes in ({"tensor": 2}, {}, {"fsdp": 2, "tensor": 2}):
        for ours, theirs in zip(saved, params_of(config.run_dir, sizes), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    before = weights_of(config)
    after = continued(config, start, tmp_path, count=2, mesh={"data": 2, "fsdp": 2})
    for name, tensor in before.items():
        np.testing.assert_array_equal(tensor, after[name], err_msg=name)


@pytest.mark.slow
def test_two_processes_to_one(tiny_config, start):
    config = tiny_config("sft", mesh={"data": 2, "fsdp": 2}, training=TRAINING)
    for ended in start(config, 2).wait():
        assert ended.code == 0, ended.text
    before = weights_of(config)
    shutil.rmtree(pathlib.Path(config.run_dir) / "export")
    train(dataclasses.replace(config, mesh=MeshConfig(fsdp=4)), progress=False)
    for name, tensor in weights_of(config).items():
        np.testing.assert_array_equal(tensor, before[name], err_msg=name)


@pytest.mark.slow
def test_a_session_ends_before_its_limit_and_goes_on(tiny_config, start):
    config = tiny_config(
        "sft",
        mesh={"data": 2, "fsdp": 2},
        training={"max_steps": 1_000_000, "save_every": 0, "eval_every": 0, "save_before": "20s"},
    )
    ends = start(config, 2).wait()
    assert [ended.code for ended in ends] == [130, 130]
    assert "20s have passed (training.save_before)" in ends[0].text
    steps = [path for path in (pathlib.Path(config.run_dir) / "checkpoints").iterdir()]
    assert sum(path.name.isdigit() for path in steps) == 1
