"""Runs of several processes are the runs of one: same weights, same metrics, same completions."""

import dataclasses
import pathlib

import pandas
import pytest

from rlhf_jax.algorithms import DAPOConfig
from rlhf_jax.rewards import RewardConfig
from rlhf_jax.runs import train
from tests.processes.conftest import CALM, assert_same_run

pytestmark = pytest.mark.timeout(1200)
MESH = {"data": 2, "fsdp": 2}


def both(config, start, count, devices, tmp_path):
    """The run of one process (this one) and the run of several."""
    alone = dataclasses.replace(config, run_dir=str(tmp_path / "alone"))
    train(alone, progress=False)
    together = dataclasses.replace(config, run_dir=str(tmp_path / "together"))
    for number, ended in enumerate(start(together, count, devices).wait()):
        assert ended.code == 0, f"process {number}:\n{ended.text}"
    return alone, together


@pytest.mark.slow
def test_a_tensor_axis_across_processes(tiny_config, start, tmp_path):
    config = tiny_config(
        "dpo",
        mesh={"tensor": 4, "replicate": ("[kv]/",)},
        optimizer=CALM,
        training={"max_steps": 3, "save_every": 2},
    )
    alone, together = both(config, start, 2, 2, tmp_path)
    assert_same_run(alone, together)
    written = {path.name for path in pathlib.Path(together.run_dir).iterdir()}
    assert written == {path.name for path in pathlib.Path(alone.run_dir).iterdir()}


@pytest.mark.slow
def test_a_reward_model_grades(tiny_config, online_config, start, tmp_path):
    graded = tiny_config("reward_model", run_dir=tmp_path / "rm", training={"max_steps": 2})
    train(graded, progress=False)
    config = online_config(
        "ppo",
        rewards=(RewardConfig(function="model", options={"path": f"{graded.run_dir}/export"}),),
        optimizer=CALM,
        mesh=MESH,
        training={"max_steps": 2, "batch_size": 8},
    )
    alone, together = both(config, start, 2, 2, tmp_path)
    assert_same_run(alone, together)
    # Of a model scores differ in the last bit.
    assert_same_completions(alone, together, rtol=1e-4)


@pytest.mark.slow
def test_four_processes_and_a_tensor_axis(online_config, mixed_task, start, tmp_path):
    data, rewards = mixed_task
    config = online_config(
        "grpo",
        data=data,
        rewards=rewards,
        optimizer=CALM,
        mesh={"data": 1, "fsdp": 2, "tensor": 2},
        training={"max_steps": 3},
        rollout={"slots": 8},
    )
    alone, together = both(config, start, 4, 1, tmp_path)
    assert_same_run(alone, together)
    assert_same_completions(alone, together)


@pytest.mark.slow
def test_dynamic_sampling_with_refill_and_rest(online_config, mixed_task, start, tmp_path):
    data, rewards = mixed_task
    config = online_config(
        "dapo",
        algorithm=DAPOConfig(group_size=4, overlong_buffer_len=2, max_generation_batches=20),
        data=data,
        rewards=rewards,
        optimizer=CALM,
        mesh=MESH,
        training={"max_steps": 3},
        rollout={"prompts_per_batch": 6},
    )
    alone, together = both(config, start, 2, 2, tmp_path)
    assert_same_run(alone, together)
    assert_same_completions(alone, together)
    rows = pandas.read_parquet(pathlib.Path(together.run_dir) / "completions")
    assert rows.generation_batch.max() + 1 > 3, "no batch was refilled"


def assert_same_completions(one, other, **tolerance):
    """Everything that was sampled and graded, greedy completions of evaluations included."""
    ours, theirs = (
        pandas.read_parquet(pathlib.Path(config.run_dir) / "completions") for config in (one, other)
    )
    assert len(ours)
    pandas.testing.assert_frame_equal(ours, theirs, **tolerance)
