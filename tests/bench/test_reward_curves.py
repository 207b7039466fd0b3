"""The comparison of reward curves, its sides replaced; prompts and reward as both get them."""

import argparse
import json
import runpy

import numpy as np
import pytest

from rlhf_jax.bench import reward_curves
from rlhf_jax.bench.reward_curves import REWARD, Trained
from tests.exported import random_export

CONFIG = """\
algorithm: {name: grpo, group_size: 2}
run_dir: run
model: {path: somewhere}
data:
  path: synthetic:arithmetic?size=24&digits=1
  eval_size: 4
  num_buckets: 1
rollout: {max_new_tokens: 3, max_prompt_len: 8}
rewards: [{function: math}]
training: {batch_size: 2, max_steps: 1}
optimizer: {learning_rate: 1e-5, schedule: constant}
"""


def test_the_reward_reads_texts_and_conversations(tmp_path):
    (tmp_path / "reward.py").write_text(REWARD)
    reward = runpy.run_path(str(tmp_path / "reward.py"))["exact"]
    answers = ["12", " 12\n", "12.", [{"role": "assistant", "content": "12"}]]
    assert reward([], answers, answer=["12", "12", "12", 12]) == [1.0, 1.0, 0.0, 1.0]


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    return argparse.Namespace(
        config=tmp_path / "config.yaml",
        overrides=[],
        model=random_export(tmp_path / "model"),
        steps=3,
        device="cpu",
        output=tmp_path,
    )


def test_prompts_go_to_trl_with_the_columns_of_the_reward(arguments, tmp_path):
    config = reward_curves.config_of(arguments, 1, tmp_path / "run")
    assert (config.seed, config.training.max_steps) == (1, 3)
    reward_curves.write_prompts(tmp_path / "prompts.jsonl", config)
    rows = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert 10 < len(rows) <= 20  # without repeated ones
    for row in rows:
        assert eval(row["prompt"].removesuffix("=")) == int(row["answer"])


def test_other_algorithms_are_refused(arguments, tmp_path):
    arguments.overrides = ["algorithm={name: ppo}", "training.batch_size=8"]
    with pytest.raises(SystemExit, match="must be grpo or dapo"):
        reward_curves.config_of(arguments, 0, tmp_path / "run")


def test_what_is_finished_is_not_made_again(monkeypatch, arguments, tmp_path, capsys):
    made = []

    def side(name, level):
        def run(folder, args, seed):
            made.append((name, seed))
            rewards = list(np.linspace(0.0, level, 20) + 0.01 * seed)
            held_out = {"accuracy/greedy": level}
            return Trained(rewards, [level] * 3, 10**9, {"accuracy/greedy": 0.1}, held_out)

        return run

    monkeypatch.setattr(reward_curves, "run_ours", side("ours", 0.5))
    monkeypatch.setattr(reward_curves, "run_trl", side("theirs", 1.0))
    words = [str(arguments.config), "--model", str(arguments.model), "--output", str(tmp_path)]
    assert reward_curves.main([*words, "--seeds", "0", "1"]) == 0
    assert made == [("ours", 0), ("theirs", 0), ("ours", 1), ("theirs", 1)]
    said = capsys.readouterr().out
    assert "| held out, accuracy/greedy, after | 0.500 (0.500 to 0.500) | 1.000" in said
    assert "| seconds a step, median | 0.50 (0.50 to 0.50) | 1.00" in said
    found = json.loads((tmp_path / "curves.json").read_text())
    assert len(found["TRL"]) == 2 and len(found["rlhf_jax"][0]["rewards"]) == 20
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    reward_curves.main([*words, "--seeds", "0", "1", "2"])
    assert made[4:] == [("ours", 2), ("theirs", 2)]
