"""The embedded comparison: a small model learns sums imperfectly by SFT; DPO, PPO, GRPO and DAPO
each go on from there."""

from typing import Any

from rlhf_jax.config import CompareConfig, make_compare

TASK = "synthetic:arithmetic?size=20000&digits=3&noise=0.5"
MODEL = {
    "model_type": "qwen2",
    "vocab_size": 320,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 344,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
ONLINE = {"batch_size": 64, "eval_every": 15, "save_every": 0}
OPTIMIZER = {"learning_rate": 5e-4, "schedule": "linear", "warmup_steps": 5}
RUN_DIR = "runs/quickstart"


def quickstart_tree(run_dir: str = RUN_DIR) -> dict[str, Any]:
    """The configuration as it would stand in a file (`configs/compare_arithmetic.yaml`)."""
    return {
        "run_dir": run_dir,
        "common": {
            "data": {"path": TASK, "eval_size": 500, "max_length": 16, "num_buckets": 1},
            "mesh": {"fsdp": 1},
            "training": {"eval_batch_size": 256},
            "logging": {"tensorboard": False, "save_completions": "none"},
        },
        "prompts": {
            "rollout": {"max_new_tokens": 4, "max_prompt_len": 8},
            "rewards": [{"function": "exact_match"}],
            "evaluation": {"samples": 4, "max_prompts": 256},
        },
        "start": {
            "name": "sft",
            "title": "SFT learns three-digit sums from examples, half of which are wrong",
            "config": {
                "seed": 1,
                "algorithm": {"name": "sft"},
                "tokenizer": "byte",
                "model": {"config": MODEL},
                "training": {"batch_size": 64, "max_steps": 500, "eval_every": 0, "save_every": 0},
                "optimizer": {"learning_rate": 2e-3, "warmup_steps": 50, "b2": 0.98},
            },
        },
        "preparations": [
            {
                "name": "reward_model",
                "title": "a reward model learns right from wrong answers, for PPO's critic",
                "config": {
                    "algorithm": {"name": "reward_model"},
                    "training": {
                        "batch_size": 64,
                        "max_steps": 120,
                        "eval_every": 0,
                        "save_every": 0,
                    },
                    "optimizer": {"learning_rate": 5e-4, "warmup_steps": 20, "b2": 0.98},
                },
            }
        ],
        "runs": [
            {
                "name": "dpo",
                "title": "DPO learns from pairs of a right and a wrong answer",
                "config": {
                    "algorithm": {"name": "dpo", "beta": 0.5},
                    "training": {
                        "batch_size": 64,
                        "max_steps": 60,
                        "eval_every": 0,
                        "save_every": 20,
                    },
                    "optimizer": {"learning_rate": 1e-4, "schedule": "linear", "warmup_steps": 10},
                    "checkpoint": {"keep_last": 10},
                },
            },
            {
                "name": "ppo",
                "title": "PPO samples answers and learns from their reward, with a critic",
                "config": {
                    "algorithm": {
                        "name": "ppo",
                        "group_size": 8,
                        "num_epochs": 1,
                        "num_minibatches": 4,
                        "kl_coef": 0.01,
                    },
                    "model": {"critic": "export:reward_model"},
                    "training": ONLINE | {"max_steps": 45},
                    "optimizer": OPTIMIZER,
                },
            },
            {
                "name": "grpo",
                "title": "GRPO compares eight answers to each sum with one another",
                "config": {
                    "algorithm": {"name": "grpo", "num_minibatches": 4},
                    "training": ONLINE | {"max_steps": 45},
                    "optimizer": OPTIMIZER,
                },
            },
            {
                "name": "dapo",
                "title": "DAPO does too, and drops sums answered all right or all wrong",
                "config": {
                    "algorithm": {
                        "name": "dapo",
                        "group_size": 8,
                        "num_minibatches": 4,
                        "overlong_buffer_len": 0,
                    },
                    "training": ONLINE | {"max_steps": 30},
                    "optimizer": OPTIMIZER,
                },
            },
        ],
    }


def quickstart_config(run_dir: str = RUN_DIR, *, seeds: tuple[int, ...] = (0,)) -> CompareConfig:
    """The embedded comparison.

    Args:
      run_dir: a new folder.
      seeds: of the compared runs; the start is always the same.
    """
    return make_compare(quickstart_tree(run_dir) | {"seeds": list(seeds)})
