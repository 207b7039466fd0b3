"""Whole runs of GRPO and its relatives beside TRL's on the same completions.

Ours samples, grades and records every batch (`rollout.record`); TRL's trainer gets the same
completions and rewards in place of sampling, and computes advantages, ratios, loss and update
itself. The loss of GRPO is about 0 whatever is learnt, so the norm of the gradient is compared: the
mean over the updates of a batch, of which the second and later ones have ratios other than 1.
"""

import argparse
import json
import pathlib
import random
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from rlhf_jax.bench.offline_runs import WARM_UP, Run
from rlhf_jax.bench.sides import command_of, run_alone
from rlhf_jax.io import read_metrics

GROUP_SIZE = 4
MAX_NEW_TOKENS = 24
UPDATES = 2
"""Of every batch."""
REWARD = '''"""Share of even bytes: any model has completions above and below the mean."""


def even(prompts, completions, completion_ids, **columns):
    return [sum(token % 2 == 0 for token in ids) / max(len(ids), 1) for ids in completion_ids]
'''
# Frequent enough that completions have all lengths, also those of a random model.
STOPS = list("abcdefghijklmnopqrstuvwxyz")


class Sides(NamedTuple):
    """The same algorithm in both sides' options."""

    ours: Mapping[str, object]
    """Of the section `algorithm`."""
    theirs: Mapping[str, object]
    """Of `trl_online`."""


FAMILY = {
    "grpo": Sides({}, {}),
    "grpo-kl": Sides({"kl_coef": 0.04}, {"beta": 0.04}),
    "grpo-kl_unbiased": Sides(
        {"kl_coef": 0.04, "kl_unbiased": True}, {"beta": 0.04, "bias_correction_kl": "true"}
    ),
    "grpo-dapo_loss": Sides(
        {"preset": "dapo_loss", "clip_high": 0.28}, {"loss_type": "dapo", "epsilon_high": 0.28}
    ),
    "grpo-dr_grpo": Sides({"preset": "dr_grpo"}, {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    "grpo-gspo": Sides(
        {"preset": "gspo"}, {"level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4}
    ),
    "grpo-cispo": Sides(
        {"preset": "cispo", "max_ratio": 1.2}, {"loss_type": "cispo", "epsilon_high": 1.2}
    ),
}


def write_prompts(path: pathlib.Path, count: int) -> pathlib.Path:
    """Prompts of random letters, reproducible."""
    draw = random.Random(0)
    letters = [draw.choices("abcdefghij", k=draw.randint(2, 9)) for _ in range(count)]
    rows = [{"prompt": f"{''.join(word)}:"} for word in letters]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_ours(folder: pathlib.Path, args: argparse.Namespace, options: Mapping[str, object]) -> Run:
    """`rlhf-jax train`, which records every batch in FOLDER/batches.

    Args:
      folder: the run is written here.
      args: of the comparison.
      options: of the algorithm.
    """
    run_dir = folder / "run"
    (folder / "reward.py").write_text(REWARD)
    prompts = write_prompts(folder / "prompts.jsonl", args.steps * args.batch_size)
    values: dict[str, object] = {
        "run_dir": run_dir,
        "model.path": args.model,
        "data.path": prompts,
        "data.shuffle": "false",
        "rewards": f"[{{function: '{folder / 'reward.py'}:even'}}]",
        "rollout.max_new_tokens": MAX_NEW_TOKENS,
        "rollout.max_prompt_len": 16,
        "rollout.stop": json.dumps(STOPS),
        "rollout.record": folder / "batches",
        "algorithm.group_size": GROUP_SIZE,
        "algorithm.num_epochs": UPDATES,
        "training.batch_size": args.batch_size,
        "training.max_steps": args.steps,
        "training.eval_every": 0,
        "training.save_every": 0,
        "training.pack": "false",
        "optimizer.learning_rate": args.learning_rate,
        "optimizer.schedule": "constant",
        "mesh.fsdp": 1,
        "logging.tensorboard": "false",
        "logging.plot": "false",
        "logging.save_completions": "none",
    }
    values |= {f"algorithm.{name}": value for name, value in options.items()}
    (folder / "run.yaml").write_text("algorithm: {name: grpo}\n")
    words = [f"{name}={value}" for name, value in values.items()]
    command = command_of("rlhf_jax", python=None)
    command += ["train", str(folder / "run.yaml"), "--no-progress", *words]
    peak = run_alone("rlhf_jax", command, threads=args.threads, log=folder / "ours.log")
    rows = [row for row in read_metrics(run_dir / "metrics.jsonl") if row["split"] == "train"]
    return Run(
        [row["grad_norm"] for row in rows], [row["time/step"] for row in rows[WARM_UP:]], peak
    )


def run_trl(folder: pathlib.Path, args: argparse.Namespace, options: Mapping[str, object]) -> Run:
    """TRL's trainer on FOLDER/batches, in a process of its own.

    Args:
      folder: of `run_ours`; results are written here.
      args: of the comparison.
      options: of `trl_online`.
    """
    out = folder / "trl.json"
    values: dict[str, object] = {
        "steps": args.steps,
        "group_size": GROUP_SIZE,
        "max_new_tokens": MAX_NEW_TOKENS,
        "learning_rate": args.learning_rate,
        "num_epochs": UPDATES,
        "threads": args.threads,
        **options,
    }
    words: list[object] = [args.model, folder / "batches", out]
    for name, value in values.items():
        words += [f"--{name.replace('_', '-')}", value]
    command = command_of("rlhf_jax.bench.trl_online", python=args.python)
    log = folder / "trl.log"
    peak = run_alone("TRL", [*command, *map(str, words)], threads=args.threads, log=log)
    found = json.loads(out.read_text())
    norms = np.array(found["gradient_norm"]).reshape(args.steps, UPDATES).mean(axis=1)
    # Nothing is sampled on this side, so that its seconds would be compared with more than an
    # update.
    return Run(norms.tolist(), [], peak)
