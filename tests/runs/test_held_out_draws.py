"""What is drawn in an evaluation depends on the seed, the prompt and the number of the sample
alone."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from rlhf_jax.algorithms import GRPOConfig
from rlhf_jax.loops.held_out import evaluate_prompts, sample_keys
from rlhf_jax.rewards import TrainerState
from rlhf_jax.runs import evaluate
from rlhf_jax.runs.online import make_online_parts
from rlhf_jax.runs.sampling import held_out_prompts


def test_a_key_for_every_sample_of_every_prompt():
    key = jax.random.key(3)
    data = np.asarray(jax.random.key_data(sample_keys(key, np.arange(5), 4))).reshape(5, 4, -1)
    assert len({tuple(row) for row in data.reshape(20, -1).tolist()}) == 20
    part = jax.random.key_data(sample_keys(key, np.array([3, 1]), 2)).reshape(2, 2, -1)
    np.testing.assert_array_equal(part, data[[3, 1]][:, :2])


@pytest.fixture
def drawn(online_config, mixed_task, tmp_path):
    """A run of 12 held-out prompts whose completions are right when they begin with an even
    token."""
    data, rewards = mixed_task
    rows = [{"prompt": f"{'x' * (i % 5)}{i:02d}:", "kind": "mixed"} for i in range(24)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = online_config(
        "grpo", algorithm=GRPOConfig(group_size=2), data=data | {"eval_size": 12}, rewards=rewards
    )
    return dataclasses.replace(
        config, evaluation=dataclasses.replace(config.evaluation, samples=4, max_prompts=12)
    )


def changed(config, size):
    return dataclasses.replace(
        config, training=dataclasses.replace(config.training, eval_batch_size=size)
    )


@pytest.mark.slow
def test_the_batch_size_changes_no_metric_of_an_evaluation(drawn, tmp_path):
    parts = make_online_parts(drawn, tmp_path / "run")

    def metrics(size, seed=0):
        measure = changed(parts.measure, size)
        asked = held_out_prompts(measure, parts.held_out, parts.mesh, group_size=2)
        assert (asked.per_batch, asked.seed) == (size, 0)
        return evaluate_prompts(
            parts.loaded.trained["policy"],
            asked._replace(seed=seed),
            sampler=parts.sampler,
            grader=parts.grader,
            state=TrainerState(),
        ).metrics

    with parts.grader:
        found = [metrics(size) for size in (3, 4, 12)]
        other = metrics(12, seed=1)
    assert 0 < found[0]["accuracy/mean@4"] < 1
    assert found[1] == pytest.approx(found[0], abs=1e-6) and found[2] == pytest.approx(
        found[0], abs=1e-6
    )
    assert other["accuracy/mean@4"] != found[0]["accuracy/mean@4"]


@pytest.mark.slow
def test_the_mesh_and_the_command_change_no_metric(drawn):
    expected = evaluate(changed(drawn, 12))
    wide = dataclasses.replace(drawn, mesh=dataclasses.replace(drawn.mesh, data=2, fsdp=2))
    assert evaluate(changed(wide, 4)) == pytest.approx(expected, abs=1e-6)
    fewer = dataclasses.replace(
        drawn,
        algorithm=GRPOConfig(group_size=8),
        training=dataclasses.replace(drawn.training, batch_size=3),
    )
    assert evaluate(fewer) == pytest.approx(expected, abs=1e-6)
