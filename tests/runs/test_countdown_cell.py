"""One cell of configs/evidence/countdown.yaml, cut short: its start is in the band, and the run is
measured as often as the file says."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from rlhf_jax.config import load_compare

FILE = pathlib.Path(__file__).resolve().parents[2] / "configs" / "evidence" / "countdown.yaml"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_seed_of_grpo_for_twenty_steps(tmp_path):
    place = [run.name for run in load_compare(FILE).runs].index("grpo")
    options = [f"run_dir={tmp_path}", "tuning=null"]
    options.append(f"runs[{place}].config.training.max_steps=20")
    command = [sys.executable, "-m", "rlhf_jax", "compare", str(FILE), "--cell", "grpo:0"]
    # In a process of its own: it computes more than it compiles, unlike what the flags of the
    # tests are for.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [*command, "--no-progress", *options], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (cell,) = json.loads((tmp_path / "results.json").read_text())["cells"]
    assert (cell["run"], cell["seed"], cell["steps"]) == ("grpo", 0, 20)
    points = cell["evaluations"]
    assert [point["step"] for point in points] == [0, 3, 6, 9, 12, 15, 18, 20]
    for name, (low, high) in load_compare(FILE).start.accept.items():
        assert low <= points[0][name] <= high
    # 64 prompts with 8 answers each a step, of 16 tokens at most
    assert 20 * 512 <= cell["generated_tokens"] <= 20 * 512 * 16
    assert len(cell["by_prompt"]["accuracy/mean@16"]) == 256
