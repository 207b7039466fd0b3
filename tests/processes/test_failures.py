"""One process of two fails: both end, within a minute, and say why; the run goes on from there."""

import signal
import time

import pytest

from rlhf_jax.io import Checkpointer
from rlhf_jax.runs import train
from tests.processes.conftest import CALM, assert_same_run

pytestmark = pytest.mark.timeout(1200)
MESH = {"data": 2, "fsdp": 2}
MINUTE = 60.0
TRAINING = {"max_steps": 4, "save_every": 2, "eval_every": 0, "batch_size": 8}


def taught(task, training):
    """A run whose gradients are more than rounding, which Adam would make as large as any."""
    data, rewards = task
    sections = {"mesh": MESH, "training": training, "optimizer": CALM}
    return sections | {"data": data, "rewards": rewards}


def newest(config):
    with Checkpointer(f"{config.run_dir}/checkpoints") as checkpointer:
        return checkpointer.latest_step()


def ended_after(running, number):
    """Waits for both; seconds that the other process needed after process `number` had ended."""
    running.processes[number].wait(timeout=240)
    began = time.monotonic()
    ends = running.wait()
    return ends, time.monotonic() - began


@pytest.mark.slow
def test_a_process_killed_while_it_saves_ends_the_other_and_the_run_goes_on(
    online_config, mixed_task, start, tmp_path
):
    options = taught(mixed_task, TRAINING)
    whole = online_config("grpo", run_dir=tmp_path / "whole", **options)
    train(whole, progress=False)
    broken = online_config("grpo", run_dir=tmp_path / "broken", **options)
    (survivor, killed), seconds = ended_after(start(broken, 2, fault="save"), 1)
    assert killed.code == -signal.SIGKILL
    assert survivor.code == 6
    assert "error: process 1 of 2 has ended" in survivor.text
    assert seconds < MINUTE
    for ended in start(broken, 2).wait():
        assert ended.code == 0, ended.text
    assert_same_run(whole, broken)


@pytest.mark.slow
def test_a_broken_run_of_two_goes_on_with_one(online_config, start, tmp_path):
    broken = online_config("grpo", run_dir=tmp_path / "broken", mesh=MESH, training=TRAINING)
    start(broken, 2, fault="update").wait()
    assert newest(broken) == 2
    assert train(broken, progress=False).steps == 4


@pytest.mark.slow
def test_a_killed_leader_ends_the_others(tiny_config, start):
    training = {"max_steps": 100_000, "save_every": 0, "eval_every": 0}
    config = tiny_config("sft", mesh=MESH, training=training)
    running = start(config, 2)
    while running.processes[0].poll() is None and "step 1/" not in running.logs[0].read_text():
        time.sleep(0.1)
    running.processes[0].kill()
    (_, survivor), seconds = ended_after(running, 0)
    assert survivor.code == 6
    assert "error: process 0 of 2 has ended" in survivor.text
    assert seconds < MINUTE


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_other(online_config, start):
    config = online_config("grpo", mesh=MESH, training=TRAINING)
    running = start(config, 2, fault="hang")
    survivor = running.processes[0]
    while survivor.poll() is None and "step 2/" not in running.logs[0].read_text():
        time.sleep(0.1)
    began = time.monotonic()
    survivor.wait(timeout=240)
    assert time.monotonic() - began < MINUTE
    running.processes[1].kill()
    assert survivor.returncode != 0
    assert "process 1 of 2 has been silent for 25 seconds" in running.logs[0].read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message", "code"),
    [
        ("refuse", "process 1: the grader has had enough", 5),
        ("break", "process 1: KeyError: 'nothing'", 1),
    ],
)
def test_a_grader_that_fails_in_one_process_ends_both_with_its_line(
    fault, message, code, online_config, start
):
    config = online_config("grpo", mesh=MESH, training=TRAINING | {"save_every": 0})
    ends = start(config, 2, fault=fault).wait()
    assert [ended.code for ended in ends] == [code, code]
    assert message in ends[0].text
    assert newest(config) == 2, "what was learnt is not saved"


@pytest.mark.slow
def test_a_process_that_never_starts_is_reported(tiny_config, start):
    config = tiny_config("sft", mesh=MESH, distributed={"initialization_timeout": 5})
    [ended] = start(config, 2, only=[0], total=2).wait(timeout=60)
    assert ended.code == 6
    [line] = ended.text.splitlines()
    assert line.startswith("error: not all 2 processes of the run")
    assert "within 5 seconds" in line


@pytest.mark.slow
def test_a_signal_to_one_saves_once_in_all(online_config, mixed_task, start, tmp_path):
    options = taught(mixed_task, TRAINING | {"save_every": 0})
    whole = online_config("grpo", run_dir=tmp_path / "whole", **options)
    train(whole, progress=False)
    stopped = online_config("grpo", run_dir=tmp_path / "stopped", **options)
    ends = start(stopped, 2, fault="terminate").wait()
    assert [ended.code for ended in ends] == [130, 130]
    assert newest(stopped) == 2
    assert [ended.code for ended in start(stopped, 2).wait()] == [0, 0]
    assert_same_run(whole, stopped)
