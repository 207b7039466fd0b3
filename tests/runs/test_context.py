"""Scalings that depend on a length: sampler, trainer and reference of a run agree in every
width."""

import json

import pytest

from rlhf_jax.algorithms import DPOConfig, GRPOConfig
from rlhf_jax.rewards import RewardConfig
from rlhf_jax.runs import train
from rlhf_jax.runs.cached import precision_of
from rlhf_jax.runs.parts import context_of
from tests.loops.conftest import MODEL
from tests.runs.test_online import rows_of

LONG = {"rope_type": "longrope", "original_max_position_embeddings": 36}
LONG |= {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 4.0, 6.0, 8.0]}
SCALED = {
    "longrope": {"rope_scaling": LONG, "max_position_embeddings": 128, "model_type": "llama"},
    "dynamic": {
        "rope_scaling": {"rope_type": "dynamic", "factor": 4.0},
        "max_position_embeddings": 16,
        "model_type": "llama",
    },
}
GRADE = '''
"""Longer answers are better."""


def grade(prompts, completions, **columns):
    return [float(len(text)) for text in completions]
'''


def scaled(name):
    return {"config": MODEL | SCALED[name] | {"initializer_range": 0.3}}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCALED)
def test_the_sampler_of_a_run_agrees_with_its_trainer(online_config, name, tmp_path):
    """Prompts of 2 to 14 tokens, up to 32 new ones, most end early: batches are cut to 32 of 48
    tokens, or not."""
    rows = [{"prompt": "abcdefghijklmn"[: 2 + i % 13]} for i in range(24)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "grade.py").write_text(GRADE)
    config = online_config(
        "grpo",
        algorithm=GRPOConfig(group_size=4),
        rewards=(RewardConfig(function=f"{tmp_path / 'grade.py'}:grade"),),
        data={"path": str(tmp_path / "prompts.jsonl"), "eval_size": 0},
        model=scaled(name),
        optimizer={"learning_rate": 0.0},
        training={"batch_size": 2, "max_steps": 6},
        rollout={
            "max_new_tokens": 32,
            "max_prompt_len": 16,
            "stop": tuple("abcdefghijklmnopqrstuvwxyz"),
        },
    )
    assert (
        max(row["sampler/logp_diff"] for row in rows_of(train(config, progress=False).run_dir))
        < 1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["precomputed", "online"])
@pytest.mark.parametrize("name", SCALED)
def test_a_policy_that_rests_has_no_margin(tiny_config, name, reference, tmp_path):
    """The same pair meets other pairs, and so another width, in the reference's pass than in
    training."""
    letters = "abcdefghij klmnopqrstuvwxyz abcdefghi"
    rows = [
        {
            "prompt": letters[: 2 + i % 9],
            "chosen": letters[: 2 + 7 * i % 34],
            "rejected": letters[: 3 + 11 * i % 34] + "!",
        }
        for i in range(40)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "path": str(tmp_path / "pairs.jsonl"),
        "eval_size": 8,
        "max_length": 48,
        "length_window": 1,
    }
    config = tiny_config(
        "dpo",
        algorithm=DPOConfig(reference=reference),
        data=data | {"num_buckets": 4, "pad_multiple": 4},
        model=scaled(name),
        optimizer={"learning_rate": 0.0},
        training={"batch_size": 2, "max_steps": 8, "eval_batch_size": 4},
    )
    run_dir = train(config, progress=False).run_dir
    margins = [
        row["rewards/margin"] for split in ("train", "eval") for row in rows_of(run_dir, split)
    ]
    assert max(map(abs, margins)) < 5e-6, "rounding of sums of 60 log-probabilities"


def test_the_context_of_a_run_is_its_longest_row(tiny_config, online_config):
    assert context_of(tiny_config("dpo", data={"max_length": 48})) == 48
    assert (
        context_of(online_config("grpo", rollout={"max_new_tokens": 32, "max_prompt_len": 16}))
        == 48
    )
    config = tiny_config("dpo", data={"max_length": 48}, model={"context": 64})
    assert context_of(config) == 64 and "64" in precision_of(config)
    with pytest.raises(
        ValueError,
        match=r"model.context=47 is less than the run's longest row of 48 tokens \(data.max_len",
    ):
        context_of(tiny_config("dpo", data={"max_length": 48}, model={"context": 47}))
