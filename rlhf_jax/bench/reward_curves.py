"""Does our GRPO or DAPO learn what TRL's learns? The same model, prompts and reward, several seeds.

    python -m rlhf_jax.bench.reward_curves CONFIG.yaml --model MODEL_FOLDER --seeds 0 1 2 \\
        --steps 40 --python PYTHON_WITH_TRL --output FOLDER

Both sides sample for themselves, so that their curves agree as two seeds do. The configuration says
prompts, lengths and options; its rewards are replaced by one function that both sides import: 1
where the answer is exactly the column `answer`. TRL's GRPOTrainer gets the options that it has too;
it has no dynamic sampling, so DAPO is compared without it. The held-out answers of TRL's model are
measured by `rlhf_jax.evaluate`, as ours are. What is finished is kept in FOLDER, and the same
command goes on from there. Float32 on both sides; with `--device gpu` products in bfloat16.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.algorithms import algorithm_name
from rlhf_jax.bench.offline_runs import WARM_UP
from rlhf_jax.bench.sides import add_device, command_of, run_alone
from rlhf_jax.config import Config, load_config
from rlhf_jax.io import plot_curves, read_metrics
from rlhf_jax.runs import evaluate
from rlhf_jax.runs.parts import make_tokenizer
from rlhf_jax.runs.sampling import make_prompts

REWARD = '''"""1 where the answer is exactly the one that is wanted."""


def exact(prompts, completions, answer, **columns):
    texts = [part if isinstance(part, str) else part[-1]["content"] for part in completions]
    return [float(text.strip() == str(wanted)) for text, wanted in zip(texts, answer)]
'''
SIDES = ("rlhf_jax", "TRL")
LAST = 10
"""Steps whose mean reward is called the final one."""


class Trained(NamedTuple):
    """One side's run of a seed."""

    rewards: list[float]
    """Mean of every step's completions."""
    seconds: list[float]
    """Of every step after the warm-up."""
    peak: int
    """Largest resident set, bytes."""
    before: dict[str, float]
    """Held-out metrics of the start."""
    after: dict[str, float]


def main(argv: Sequence[str] | None = None) -> int:
    """Trains what is missing, and writes curves.json, curves.png and a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=pathlib.Path)
    parser.add_argument("overrides", nargs="*", help="key=value, of the configuration")
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--python", default=sys.executable, help="interpreter that has trl")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    add_device(parser)
    args = parser.parse_intermixed_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "reward.py").write_text(REWARD)
    found: dict[str, list[Trained]] = {side: [] for side in SIDES}
    for seed in args.seeds:
        for side, run in zip(SIDES, (run_ours, run_trl), strict=True):
            kept = args.output / f"{side}_{seed}.json"
            if not kept.exists():
                print(f"seed {seed}: {side}", flush=True)
                folder = args.output / f"{side}_{seed}"
                folder.mkdir(exist_ok=True)
                kept.write_text(json.dumps(run(folder, args, seed)._asdict()))
            found[side].append(Trained(**json.loads(kept.read_text())))
    write(found, args.output)
    print(table(found))
    return 0


def config_of(args: argparse.Namespace, seed: int, run_dir: pathlib.Path) -> Config:
    """What both sides do.

    Raises:
      SystemExit: an algorithm that TRL's GRPOTrainer does not have.
    """
    config = load_config(args.config, [*overrides_of(args, seed, run_dir), *args.overrides])
    if algorithm_name(config.algorithm) not in ("grpo", "dapo"):
        raise SystemExit(f"{args.config}: algorithm.name must be grpo or dapo to be compared")
    return config


def overrides_of(args: argparse.Namespace, seed: int, run_dir: pathlib.Path) -> list[str]:
    """What the comparison changes in the configuration."""
    on_gpu = ["model.compute_dtype=bfloat16"] if args.device == "gpu" else []
    return [
        *on_gpu,
        f"model.path={args.model}",
        f"seed={seed}",
        f"run_dir={run_dir}",
        f"rewards=[{{function: '{(args.output / 'reward.py').resolve()}:exact'}}]",
        f"training.max_steps={args.steps}",
        f"training.eval_every={args.steps}",
        "training.save_every=0",
        "logging.tensorboard=false",
        "logging.plot=false",
    ]


def run_ours(folder: pathlib.Path, args: argparse.Namespace, seed: int) -> Trained:
    """`rlhf-jax train`."""
    run_dir = folder / "run"
    config_of(args, seed, run_dir)
    command = [*command_of("rlhf_jax", python=None), "train", str(args.config), "--no-progress"]
    command += [*overrides_of(args, seed, run_dir), *args.overrides]
    log = folder / "log.txt"
    peak = run_alone("rlhf_jax", command, threads=args.threads, log=log, device=args.device)
    rows = read_metrics(run_dir / "metrics.jsonl")
    trained = [row for row in rows if row["split"] == "train"]
    first, *_, last = [row for row in rows if row["split"] == "eval"]
    return Trained(
        [row["rewards/mean"] for row in trained],
        [row["time/step"] for row in trained[WARM_UP:]],
        peak,
        held_out(first),
        held_out(last),
    )


def run_trl(folder: pathlib.Path, args: argparse.Namespace, seed: int) -> Trained:
    """TRL's trainer, in a process of its own; its model is measured by `evaluate`."""
    config = config_of(args, seed, folder / "unused")
    sampling = config.algorithm.sampling
    prompts = folder / "prompts.jsonl"
    write_prompts(prompts, config)
    values: dict[str, object] = {
        "steps": args.steps,
        "prompts-per-step": config.training.batch_size,
        "group-size": sampling.group_size,
        "max-new-tokens": config.rollout.max_new_tokens,
        "learning-rate": config.optimizer.learning_rate,
        "schedule": config.optimizer.schedule,
        "seed": seed,
        "threads": args.threads,
    }
    words: list[object] = [args.model, prompts, args.output / "reward.py", folder]
    for name, value in values.items():
        words += [f"--{name}", value]
    if algorithm_name(config.algorithm) == "dapo":
        words += ["--loss-type", "dapo", "--epsilon-high", config.algorithm.clip_high]
        words += ["--mask-truncated"] if config.algorithm.overlong_filtering else []
    command = [*command_of("rlhf_jax.bench.trl_reward", python=args.python), *map(str, words)]
    log = folder / "log.txt"
    peak = run_alone("TRL", command, threads=args.threads, log=log, device=args.device)
    found = json.loads((folder / "steps.json").read_text())
    measured = [
        held_out(evaluate(dataclasses.replace(config, model=section)))
        for section in (
            config.model,
            dataclasses.replace(config.model, path=str(folder / "model")),
        )
    ]
    return Trained(found["reward"], found["seconds"][WARM_UP:], peak, *measured)


def write_prompts(path: pathlib.Path, config: Config) -> None:
    """The training prompts as rows of TRL's: `prompt` and the columns of the reward."""
    tokenizer = make_tokenizer(config, path.parent, "prompts")
    loader = make_prompts(config, tokenizer, "train")
    batch = loader.take(np.arange(loader.num_examples))
    columns = {"prompt": batch.prompts, **batch.columns}
    rows: list[dict[str, Any]] = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def held_out(metrics: dict[str, Any]) -> dict[str, float]:
    """Accuracies, greedy and of the samples."""
    return {name: value for name, value in metrics.items() if name.startswith("accuracy/")}


def table(found: dict[str, list[Trained]]) -> str:
    """Markdown: mean over the seeds, and the lowest and the highest."""
    lines = ["| | " + " | ".join(found) + " |", "|" + "---|" * (len(found) + 1)]

    def line(name: str, values: dict[str, list[float]], form: str) -> str:
        cells = [
            f"{np.mean(each):{form}} ({min(each):{form}} to {max(each):{form}})"
            for each in values.values()
        ]
        return f"| {name} | " + " | ".join(cells) + " |"

    runs = found.items()
    reached = {side: [float(np.mean(run.rewards[-LAST:])) for run in each] for side, each in runs}
    lines.append(line(f"mean reward of the last {LAST} steps", reached, ".3f"))
    for name in next(iter(found.values()))[0].before:
        before = {side: [run.before[name] for run in each] for side, each in runs}
        after = {side: [run.after[name] for run in each] for side, each in runs}
        lines.append(line(f"held out, {name}, before", before, ".3f"))
        lines.append(line(f"held out, {name}, after", after, ".3f"))
    seconds = {side: [float(np.median(run.seconds)) for run in each] for side, each in runs}
    lines.append(line("seconds a step, median", seconds, ".2f"))
    peaks = {side: [run.peak / 1e9 for run in each] for side, each in runs}
    lines.append(line("peak memory, GB", peaks, ".2f"))
    return "\n".join(lines)


def write(found: dict[str, list[Trained]], folder: pathlib.Path) -> None:
    """curves.json, curves.md and curves.png."""
    plain = {side: [run._asdict() for run in runs] for side, runs in found.items()}
    (folder / "curves.json").write_text(json.dumps(plain, indent=1) + "\n")
    (folder / "curves.md").write_text(table(found) + "\n")
    curves: dict[str, list[list[tuple[float, float, float]]]] = {}
    for side, runs in found.items():
        curves[side] = []
        for run in runs:
            # The first steps compile: each is drawn as long as the median one.
            step = float(np.median(run.seconds)) if run.seconds else 0.0
            curves[side].append(
                [
                    (number, number * step, reward)
                    for number, reward in enumerate(run.rewards, start=1)
                ]
            )
    plot_curves(
        curves,
        folder / "curves.png",
        metric="rewards/mean",
        values="mean reward of a step's completions",
        title="rlhf_jax and TRL on the same prompts and reward",
        clock="seconds of steps (the median step times their number)",
    )


if __name__ == "__main__":
    sys.exit(main())
