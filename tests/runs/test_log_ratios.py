"""The KL of held-out samples to another model, against log-probabilities written out."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from rlhf_jax.config import ConfigError, make_config
from rlhf_jax.data import byte_tokenizer
from rlhf_jax.io import read_metrics
from rlhf_jax.models import ModelConfig, init_model
from rlhf_jax.rewards import RewardConfig
from rlhf_jax.runs import evaluate, train
from rlhf_jax.runs.export import export_model
from rlhf_jax.runs.footprint import run_bytes, run_shapes
from rlhf_jax.runs.log_ratios import make_log_ratios
from rlhf_jax.sharding import make_mesh
from rlhf_jax.types import Rollout
from tests.loops.conftest import MODEL


def written_out(model, params, tokens, mask, completion_mask, temperature):
    """Sum of log softmax(logits / T) at the chosen tokens, a row at a time in NumPy."""
    logits = np.asarray(model.logits(params, tokens, mask), np.float64) / temperature
    total = np.zeros(len(tokens))
    for row in range(len(tokens)):
        for t in np.flatnonzero(completion_mask[row]):
            before = logits[row, t - 1]
            top = before.max()
            total[row] += before[tokens[row, t]] - top - np.log(np.exp(before - top).sum())
    return total


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_of_completions_with_holes_prompts_and_padding(temperature, devices):
    architecture = ModelConfig.from_hf(MODEL)
    mesh = make_mesh({"data": devices}, devices=jax.devices()[:devices])
    model, policy = init_model(architecture, jax.random.key(0))
    placed, reference = init_model(architecture, jax.random.key(1), mesh=mesh)
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, 300, (11, 12)).astype(np.int32)
    mask = np.arange(12) < draw.integers(5, 13, (11, 1))
    completion_mask = mask & (np.arange(12) >= 4)
    completion_mask[3, 6] = False  # an environment answered
    ours = written_out(model, policy, tokens, mask, completion_mask, temperature)
    theirs = written_out(
        model, jax.device_get(reference), tokens, mask, completion_mask, temperature
    )
    logps = np.zeros((11, 12), np.float32)
    logps[:, 5] = ours  # only their sum counts
    log_ratios = make_log_ratios(
        placed, reference, mesh=mesh, rows_at_once=8, max_scored=8, temperature=temperature
    )
    rollout = Rollout(tokens, mask, completion_mask, logps, np.zeros(11, bool))
    np.testing.assert_allclose(log_ratios(rollout), ours - theirs, atol=2e-5)


@pytest.fixture
def start(tmp_path):
    """Folder of a tiny model."""
    model, params = init_model(ModelConfig.from_hf(MODEL), jax.random.key(7))
    return export_model(tmp_path / "start", model, params, byte_tokenizer())


def test_a_run_reports_it_at_every_evaluation(online_config, start, tmp_path):
    """0 at the start, which it is compared with; another value once it was trained (of so few
    samples also one below 0); the same when the checkpoint is measured afterwards."""
    config = online_config("dapo", rewards=(RewardConfig(function="exact_match"),))
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, path=str(start), config=None),
        evaluation=dataclasses.replace(config.evaluation, samples=4, reference=str(start)),
        optimizer=dataclasses.replace(config.optimizer, learning_rate=3e-3),
    )
    config = dataclasses.replace(
        config, algorithm=dataclasses.replace(config.algorithm, dynamic_sampling=False)
    )
    result = train(config)
    rows = [row for row in read_metrics(result.run_dir) if row["split"] == "eval"]
    found = [row["kl/ref_sequence"] for row in rows]
    assert found[0] == pytest.approx(0.0, abs=1e-4)
    again = evaluate(config, checkpoint=str(result.run_dir))["kl/ref_sequence"]
    assert again == pytest.approx(found[-1], abs=1e-5)
    assert abs(found[-1]) > 1e-4


def test_its_bytes_are_expected_and_are_none_of_training(online_config, start):
    config = online_config("grpo", rewards=(RewardConfig(function="exact_match"),))
    more = dataclasses.replace(
        config, evaluation=dataclasses.replace(config.evaluation, reference=str(start))
    )
    assert not run_shapes(config).compared
    assert run_shapes(more).compared
    assert run_bytes(more) == run_bytes(config)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"rollout": {"top_k": 5}}, "rollout.top_k=5 cuts it: set rollout.top_k=0"),
        ({"rollout": {"min_p": 0.1}}, "rollout.min_p=0.1 cuts it: set rollout.min_p=0"),
        ({"rollout": {"top_p": 0.9}}, "rollout.top_p=0.9 cuts it: set rollout.top_p=1"),
        ({"evaluation": {"top_p": 0.9}}, "evaluation.top_p=0.9 cuts it: set evaluation.top_p=1"),
        ({"evaluation": {"samples": 0}}, "evaluation.samples=0 makes none"),
    ],
)
def test_samples_that_say_nothing_of_the_kl_are_refused(sections, said):
    tree = {
        "run_dir": "run",
        "algorithm": {"name": "grpo"},
        "model": {"path": "start"},
        "data": {"path": "synthetic:arithmetic", "eval_size": 8},
        "rewards": [{"function": "exact_match"}],
        "rollout": sections.get("rollout", {}),
        "evaluation": {"reference": "start"} | sections.get("evaluation", {}),
    }
    with pytest.raises(ConfigError, match=re.escape(said)):
        make_config(tree)
