"""Run folders as `train` leaves them, made without training."""

import contextlib
import fcntl
import json
import math

import yaml

from rlhf_jax.io import CompletionsWriter, JsonlSink

GRPO = {
    "algorithm": {"name": "grpo", "kl_coef": 0.0, "group_size": 4},
    "training": {"max_steps": 40},
    "optimizer": {"learning_rate": 1e-6},
    "rewards": [{"function": "exact_match"}, {"function": "my_rewards.py:short", "name": "short"}],
    "seed": 0,
}
SESSION = {
    "process": 1,
    "started": "2026-11-27T06:00:00+00:00",
    "rlhf_jax": "0.1.0",
    "commit": "0123456789abcdef",
    "source_changed": False,
    "python": "3.12.1",
    "jax": "0.10.0",
    "platform": "cpu",
    "device": "cpu",
    "devices": 1,
    "resumed_after": None,
}


def train_row(step, *, compile=None, **values):
    """A row of an online step."""
    row = {
        "rewards/mean": 0.2 + 0.5 * step / 40,
        "rewards/exact_match": 0.1 + 0.5 * step / 40,
        "rewards/short": 0.9,
        "data/accuracy": 0.1 + 0.5 * step / 40,
        "policy/entropy": 1.0 - step / 80,
        "rewards/zero_std_groups": 0.6,
        "data/groups_generated": 8.0,
        "data/tokens_generated": 100.0,
        "loss/total": 1e-8,
        "time/step": 0.5 if compile is None else 0.5 + compile,
        "tokens_per_second": 400.0 if compile is None else 10.0,
        "time/elapsed": 10.0 + 0.5 * step + (compile or 0.0),
    } | values
    return row if compile is None else row | {"time/compile": compile}


def make_run(
    path,
    config=GRPO,
    *,
    steps=40,
    shift=0.0,
    ended="finished",
    evaluations=True,
    completions=(),
    kind="parquet",
):
    """A run folder.

    Args:
      path: of the folder.
      config: its configuration.
      steps: training steps made.
      shift: added to the reward.
      ended: how its session ended; None: it was killed.
      evaluations: whether it has any.
      completions: (split, step, prompt, completion, reward) each.
      kind: format of the completions.
    """
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config | {"run_dir": str(path)}))
    session = SESSION if ended is None else SESSION | {"ended": ended}
    (path / "sessions.json").write_text(json.dumps([session]))
    sink = JsonlSink(path / "metrics.jsonl")
    for step in range(steps + 1):
        if step:
            row = train_row(step, compile=3.0 if step == 1 else None)
            sink.write(step, row | {"rewards/mean": row["rewards/mean"] + shift})
        if evaluations and step % 10 == 0:
            right = 0.3 + 0.6 * (1 - math.exp(-step / 15)) + shift
            spent = {"time/evaluate": 1.0, "time/elapsed": 10.0 + 0.6 * step + 4.0 * (step > 0)}
            held = {"accuracy/mean@4": right, "accuracy/greedy": right + 0.05}
            sink.write(step, held | {"rewards/greedy": right} | spent, "eval")
    sink.close()
    if completions:
        names = [reward["function"] for reward in config["rewards"][:1]] + ["short"]
        with CompletionsWriter(
            path / "completions", kind=kind, rewards=names, group_size=1
        ) as writer:
            for split, step, prompt, completion, reward in completions:
                writer.add(
                    {
                        "step": [step],
                        "split": [split],
                        "sample": [0],
                        "kept": [True],
                        "generation_batch": [step if split == "train" else None],
                        "prompt_index": [0],
                        "prompt": [prompt],
                        "completion": [completion],
                        "exact_match": [reward],
                        "short": [0.5],
                        "reward": [reward],
                        "tokens": [len(completion)],
                        "truncated": [False],
                    }
                )
    return path


@contextlib.contextmanager
def locked(path):
    """A run's lock, held as by a process that trains."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
