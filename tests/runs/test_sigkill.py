"""A DPO run killed with SIGKILL three times at random steps ends with the bits of one that never
was."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from rlhf_jax.config import dump_config
from rlhf_jax.io import read_metrics
from rlhf_jax.runs.export import load_checkpoint
from rlhf_jax.sharding import make_mesh
from tests.runs.test_train import values

STEPS = 60


def _start(config, path):
    dump_config(config, path)
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(path.parent / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-m", "rlhf_jax", "train", str(path), "--no-progress"]
    with path.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=log)


def _last_step(run_dir):
    path = pathlib.Path(run_dir) / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((row["step"] for row in read_metrics(path)), default=0) if lines else 0


def _arrays(run_dir):
    params = load_checkpoint(
        pathlib.Path(run_dir), STEPS, mesh=make_mesh({}, devices=jax.devices()[:1])
    )[1]
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


@pytest.mark.slow
def test_three_kills_change_nothing(tiny_config, tmp_path):
    options = {
        "training": {"max_steps": STEPS, "save_every": 5, "eval_every": 12},
        "data": {"path": "synthetic:arithmetic?size=300&max_operand=40", "num_buckets": 2},
    }
    whole = tiny_config("dpo", run_dir=tmp_path / "whole", **options)
    process = _start(whole, tmp_path / "whole.yaml")
    assert process.wait(timeout=240) == 0, (tmp_path / "whole.log").read_text()
    broken = tiny_config("dpo", run_dir=tmp_path / "broken", **options)
    draw, kills = random.Random(), 0
    for target in sorted(draw.sample(range(6, STEPS - 4), 3)):
        process = _start(broken, tmp_path / "broken.yaml")
        while _last_step(broken.run_dir) < target and process.poll() is None:
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait(timeout=60)
    assert kills == 3, f"only {kills} kills landed before the run ended"
    process = _start(broken, tmp_path / "broken.yaml")
    assert process.wait(timeout=240) == 0, (tmp_path / "broken.log").read_text()
    assert values(broken.run_dir) == values(whole.run_dir)
    for a, b in zip(_arrays(whole.run_dir), _arrays(broken.run_dir), strict=True):
        np.testing.assert_array_equal(a, b)
