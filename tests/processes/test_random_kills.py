"""A run of two processes, one of which is killed at random moments while checkpoints are written in
the background, ends with the bits of one that never was."""

import os
import random
import signal
import time

import pytest

from rlhf_jax.io import read_metrics
from tests.processes.conftest import CALM, assert_same_run
from tests.processes.test_failures import MINUTE, taught

KILLS = int(os.environ.get("RLHF_JAX_TEST_KILLS", "2"))
"""CI's; 50 take a quarter of an hour."""
SPREAD = 2.0
"""Seconds within which a kill comes after a step has been written: several steps and a save."""


def last_step(run_dir):
    path = run_dir / "metrics.jsonl"
    return max((row["step"] for row in read_metrics(path)), default=0) if path.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(1500 + 120 * KILLS)
def test_kills_at_random_moments_lose_nothing(online_config, mixed_task, start, tmp_path):
    steps = 8 * (KILLS + 1)
    training = {"max_steps": steps, "save_every": 2, "eval_every": 0, "batch_size": 8}
    options = taught(mixed_task, training) | {"optimizer": CALM}
    whole = online_config("grpo", run_dir=tmp_path / "whole", **options)
    assert [ended.code for ended in start(whole, 2).wait(timeout=600 + 30 * KILLS)] == [0, 0]
    broken = online_config("grpo", run_dir=tmp_path / "broken", **options)
    seed = random.randrange(2**32)
    draw = random.Random(seed)
    landed = 0
    for kill in range(KILLS):
        reached = last_step(tmp_path / "broken")
        running = start(broken, 2)
        while all(process.poll() is None for process in running.processes):
            if last_step(tmp_path / "broken") > reached:
                break
            time.sleep(0.02)
        time.sleep(draw.uniform(0, SPREAD))
        victim = draw.randrange(2)
        if running.processes[victim].poll() is not None:
            break  # the run has ended
        running.processes[victim].send_signal(signal.SIGKILL)
        began = time.monotonic()
        ends = running.wait(timeout=2 * MINUTE)
        survivor = ends[1 - victim]
        if survivor.code == 0:
            break  # it was in its last moments
        landed += 1
        told = f"seed {seed}, kill {kill}, process {victim}:\n{survivor.text}"
        assert survivor.code == 6, told
        assert f"process {victim} of 2 has ended" in survivor.text, told
        assert time.monotonic() - began < MINUTE, told
    assert landed >= min(KILLS, 3), f"seed {seed}: only {landed} kills landed before the run ended"
    print(f"{landed} kills landed, the last one after step {last_step(tmp_path / 'broken')}")
    assert [ended.code for ended in start(broken, 2).wait(timeout=600)] == [0, 0]
    assert_same_run(whole, broken, tolerance=0)
