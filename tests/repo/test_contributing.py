"""The algorithms that CONTRIBUTING.md writes out work, as they stand there."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.algorithms import ALGORITHMS
from rlhf_jax.io import read_metrics
from rlhf_jax.rewards import RewardConfig
from rlhf_jax.runs import train
from rlhf_jax.training import make_step, make_train_state
from tests.contract.fakes import make_batch, make_model, make_params
from tests.loops.conftest import online_config, tiny_config

__all__ = ["online_config", "tiny_config"]
TEXT = (pathlib.Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text()
GRADER = """
def grade(prompts, completions, completion_ids, **columns):
    return [float(ids[0] % 2 == 0) for ids in completion_ids]
"""


@pytest.fixture
def namespace():
    """What the blocks define, one after another; the registry is as before afterwards."""
    before = dict(ALGORITHMS)
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    yield names
    ALGORITHMS.clear()
    ALGORITHMS.update(before)


def test_the_algorithm_on_pairs_learns(namespace):
    algorithm = ALGORITHMS["simpo"](namespace["SimPOConfig"](), make_model())
    tx = optax.adam(0.05)
    step = jax.jit(make_step(algorithm, tx, num_microbatches=2))
    state = make_train_state({"policy": make_params(0)}, tx, jax.random.key(0))
    batch = make_batch("pairs")
    losses = []
    for _ in range(20):
        state, metrics = step(state, {}, batch, jax.random.key(1))
        losses.append(float(metrics["loss/total"]))
    assert jnp.isfinite(jnp.array(losses)).all()
    assert losses[-1] < 0.5 * losses[0]
    assert float(metrics["rewards/margin"]) > 0


@pytest.mark.slow
def test_the_algorithm_that_samples_learns(namespace, online_config, tmp_path):
    (tmp_path / "grader.py").write_text(GRADER)
    rows = [{"prompt": f"{i:02d}:"} for i in range(24)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = online_config(
        "reinforce",
        algorithm=namespace["ReinforceConfig"](group_size=8),
        data={"path": str(path), "eval_size": 0},
        rewards=(RewardConfig(function=f"{tmp_path / 'grader.py'}:grade"),),
        training={"batch_size": 8, "max_steps": 10, "eval_every": 0, "save_every": 0},
        optimizer={"learning_rate": 3e-2},
    )
    result = train(config, progress=False)
    found = [row["rewards/mean"] for row in read_metrics(result.run_dir)]
    assert np.mean(found[-3:]) > np.mean(found[:3]) + 0.1
