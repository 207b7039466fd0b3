"""Tiny runs for the loop tests."""

import dataclasses
import json
import pathlib

import pytest

from rlhf_jax.algorithms import (
    DAPOConfig,
    DPOConfig,
    GRPOConfig,
    KTOConfig,
    PPOConfig,
    RewardModelConfig,
    SFTConfig,
)
from rlhf_jax.config import CheckpointConfig, Config, LoggingConfig, ModelSection, TrainingConfig
from rlhf_jax.data import DataConfig
from rlhf_jax.rewards import PoolConfig, RewardConfig
from rlhf_jax.sharding import MeshConfig
from rlhf_jax.training import OptimizerConfig

DATA = "synthetic:arithmetic?size=60&max_operand=9"
MODEL = {
    "model_type": "qwen2",
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
PATIENT = PoolConfig(timeout=120.0)
"""Runs are compared bit by bit, and a grade that a busy machine takes too long for is missing in
one of them."""
ALGORITHMS = {
    "sft": SFTConfig(),
    "reward_model": RewardModelConfig(),
    "dpo": DPOConfig(),
    "kto": KTOConfig(),
}


@pytest.fixture
def tiny_config(tmp_path):
    """(algorithm name, **section replacements) -> Config of a run of 8 steps; `model`, `data`, ...
    are dicts of fields."""

    def build(
        name: str,
        *,
        run_dir: pathlib.Path | None = None,
        seed: int = 0,
        algorithm=None,
        rewards=(),
        **sections,
    ) -> Config:
        config = Config(
            algorithm=algorithm or ALGORITHMS[name],
            run_dir=str(run_dir or tmp_path / name),
            seed=seed,
            rewards=rewards,
            **({"reward_pool": PATIENT} if rewards else {}),
            tokenizer="byte",
            model=ModelSection(config=MODEL),
            data=DataConfig(path=DATA, eval_size=12, max_length=16, num_buckets=1),
            training=TrainingConfig(batch_size=8, max_steps=8, eval_every=4, save_every=3),
            optimizer=OptimizerConfig(learning_rate=3e-3, schedule="constant"),
            mesh=MeshConfig(data=1, fsdp=1, tensor=1),
            checkpoint=CheckpointConfig(),
            logging=LoggingConfig(tensorboard=False, plot=False),
        )
        changed = {
            name: dataclasses.replace(getattr(config, name), **fields)
            for name, fields in sections.items()
        }
        return dataclasses.replace(config, **changed)

    return build


ONLINE = {
    "ppo": PPOConfig(group_size=2, num_epochs=2, num_minibatches=2, kl_target=1.0, critic_warmup=2),
    "grpo": GRPOConfig(group_size=4, kl_coef=0.1),
    "dapo": DAPOConfig(group_size=4, overlong_buffer_len=2),
}
TASK = '''
"""Half of the prompts are always solved, a quarter never, the others by a first even token."""


def grade(prompts, completions, completion_ids, kind, **columns):
    fixed = {"always": 1.0, "never": 0.0}
    return [fixed.get(k, float(ids[0] % 2 == 0)) for k, ids in zip(kind, completion_ids)]
'''
EXACT = (RewardConfig(function="exact_match"),)


@pytest.fixture
def online_config(tiny_config):
    """(name, **section replacements) -> an online run of 4 steps on single-digit sums."""

    def build(name, *, algorithm=None, rewards=EXACT, training=None, rollout=None, **options):
        return tiny_config(
            name,
            algorithm=algorithm or ONLINE[name],
            rewards=rewards,
            training={"batch_size": 4, "max_steps": 4, "eval_every": 2, "save_every": 2}
            | (training or {}),
            rollout={"max_new_tokens": 4, "max_prompt_len": 16} | (rollout or {}),
            evaluation={"samples": 2, "max_prompts": 6},
            **options,
        )

    return build


@pytest.fixture
def mixed_task(tmp_path):
    """(data section, rewards) of the task of TASK."""
    kinds = ["always", "always", "never", "mixed"]
    rows = [{"prompt": f"{i:02d}:", "kind": kinds[i % 4]} for i in range(24)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.py").write_text(TASK)
    data = {"path": str(tmp_path / "prompts.jsonl"), "eval_size": 0}
    return data, (RewardConfig(function=f"{tmp_path / 'task.py'}:grade"),)
