"""The online loop on meshes, over many steps, and killed for good."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pyarrow.parquet
import pytest

from rlhf_jax.algorithms import DAPOConfig, GRPOConfig, PPOConfig
from rlhf_jax.config import dump_config
from rlhf_jax.io import GREEDY
from rlhf_jax.loops.recorder import Recorder
from rlhf_jax.models import load_pretrained
from rlhf_jax.runs import train
from rlhf_jax.sharding import MeshConfig
from tests.runs.test_online import arrays
from tests.runs.test_train import values

ALGORITHMS = {
    "ppo": PPOConfig(group_size=2, num_epochs=2),
    "dapo": DAPOConfig(group_size=4, overlong_buffer_len=2, max_generation_batches=50),
}
SGD = {"name": "sgd", "learning_rate": 0.3}
"""Adam would blow the rounding noise of gradients that are zero in theory up to whole steps."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mesh"), [("dapo", {"fsdp": 8}), ("ppo", {"fsdp": 4, "tensor": 2})]
)
def test_a_mesh_agrees_with_one_device(name, mesh, online_config, mixed_task, tmp_path):
    data, rewards = mixed_task

    def run(folder, sizes):
        config = online_config(
            name,
            algorithm=ALGORITHMS[name],
            run_dir=tmp_path / folder,
            data=data | {"eval_size": 6},
            rewards=rewards,
            optimizer=SGD,
            mesh=sizes,
            training={"batch_size": 4 if name != "ppo" else 8, "max_steps": 3, "eval_every": 3},
        )
        result = train(config, progress=False)
        rows = pyarrow.parquet.read_table(result.run_dir / "completions" / "eval").to_pylist()
        greedy = [row["completion"] for row in rows if row["step"] == 3 and row["sample"] == GREEDY]
        return [
            np.asarray(x) for x in jax.tree.leaves(load_pretrained(result.export_dir)[1])
        ], greedy

    wanted, wanted_greedy = run("single", {})
    got, greedy = run("mesh", mesh)
    assert greedy == wanted_greedy
    for a, b in zip(wanted, got, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_generation_may_use_another_layout(online_config, mixed_task, tmp_path):
    data, rewards = mixed_task
    options = {"data": data, "rewards": rewards, "optimizer": SGD, "mesh": {"fsdp": 8}}
    same = train(online_config("grpo", run_dir=tmp_path / "same", **options), progress=False)
    rollout = {"mesh": MeshConfig(data=4, fsdp=1, tensor=2)}
    other = train(
        online_config("grpo", run_dir=tmp_path / "other", rollout=rollout, **options),
        progress=False,
    )
    for a, b in zip(arrays(same.run_dir), arrays(other.run_dir), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_nothing_is_compiled_after_the_warm_up(online_config, monkeypatch):
    """60 steps over prompts of varied lengths; the first 10 meet every shape."""
    compiled, counts = [], {}

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    inner = Recorder.row

    def row(recorder, step, values):
        counts[step] = len(compiled)
        inner(recorder, step, values)

    monkeypatch.setattr(Recorder, "row", row)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        config = online_config(
            "grpo",
            algorithm=GRPOConfig(group_size=2),
            data={
                "path": "synthetic:arithmetic?size=400&max_operand=99999&carry=true",
                "num_buckets": 2,
                "pad_multiple": 4,
            },
            training={"max_steps": 60, "eval_every": 0, "save_every": 0},
            rollout={"max_new_tokens": 6},
        )
        train(config, progress=False)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert len(counts) == 60 and counts[60] == counts[10], counts


@pytest.mark.slow
def test_killed_in_the_middle_of_a_refill(online_config, mixed_task, tmp_path):
    """SIGKILL at any moment: the run that goes on ends with the bits of one that never was
    killed."""
    data, rewards = mixed_task
    options = {
        "data": data,
        "rewards": rewards,
        "rollout": {"prompts_per_batch": 6},
        "training": {"batch_size": 3, "max_steps": 20, "save_every": 4, "eval_every": 0},
    }
    whole = online_config(
        "dapo", run_dir=tmp_path / "whole", algorithm=ALGORITHMS["dapo"], **options
    )
    broken = online_config(
        "dapo", run_dir=tmp_path / "broken", algorithm=ALGORITHMS["dapo"], **options
    )
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def start(config, name):
        dump_config(config, tmp_path / f"{name}.yaml")
        command = [
            sys.executable,
            "-m",
            "rlhf_jax",
            "train",
            str(tmp_path / f"{name}.yaml"),
            "--no-progress",
        ]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    assert start(whole, "whole").wait(timeout=240) == 0
    kills = 0
    for target in (6, 15):
        process = start(broken, "broken")
        while process.poll() is None and last_step(broken.run_dir) < target:
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert start(broken, "broken").wait(timeout=240) == 0 and kills == 2
    assert values(whole.run_dir) == values(broken.run_dir)
    for a, b in zip(arrays(whole.run_dir), arrays(broken.run_dir), strict=True):
        np.testing.assert_array_equal(a, b)


def last_step(run_dir):
    path = pathlib.Path(run_dir) / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return len(lines) - 1
