"""Whole runs of SFT, reward model or DPO on a real model: this library and TRL, step time and peak
memory.

    python -m rlhf_jax.bench.offline_runs dpo MODEL_FOLDER ROWS_JSONL [--python PYTHON_WITH_TRL]

Both sides are started as a user starts them (`rlhf-jax train`, a TRL trainer), with the same rows
in file order, float32, as many threads, gradient checkpointing off in TRL, whose batches are padded
to their longest row, and otherwise their defaults. DPO's reference log-probabilities are computed
beforehand on both sides. They run one after the other, for `--rounds` rounds. Time is from the end
of a step to the end of the next, without the first two; memory is the process's largest resident
set, loading included and on our side the last checkpoint, which TRL does not write. First the
losses must agree within 2e-3 relative where both start from the same weights (a reward model's head
does not), or no ratio is printed.
"""

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from rlhf_jax.bench.outcome import Outcome, Side, show
from rlhf_jax.bench.sides import command_of, run_alone
from rlhf_jax.bench.timing import summarise
from rlhf_jax.bench.trl_offline import train_elsewhere
from rlhf_jax.io import read_metrics

TOLERANCE = 2e-3
WARM_UP = 2
"""Steps: the first one compiles, and its end is waited for while the second one runs."""


class Run(NamedTuple):
    """One side's run of a round."""

    losses: list[float]
    seconds: list[float]
    """Of every step after the warm-up."""
    peak: int
    """Largest resident set, bytes."""
    margins: list[float] = []
    """Chosen minus rejected reward of every step; SFT has none."""
    held_out: dict[str, float] = {}
    """Loss and, of pairs, accuracy on held-out rows after the last step."""


def measure(argv: Sequence[str] | None = None) -> list[Outcome]:
    """Runs both sides as the command line asks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("algorithm", choices=("sft", "reward_model", "dpo"))
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("rows", type=pathlib.Path)
    parser.add_argument("--python", default=sys.executable, help="interpreter that has trl")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-6)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    runs: dict[str, list[Run]] = {"rlhf_jax": [], "TRL": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        rows = args.rows.read_text().splitlines()[: args.steps * args.batch_size]
        if len(rows) < args.steps * args.batch_size:
            parser.error(f"{args.rows} has {len(rows)} rows, fewer than steps x batch size")
        (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
        for number in range(args.rounds):
            runs["rlhf_jax"].append(run_ours(folder, args, number))
            runs["TRL"].append(run_trl(folder, args, number))
    title = (
        f"{args.algorithm}, {args.steps} steps of {args.batch_size} rows, {args.model.name}, "
        f"float32, {args.threads} threads, {args.rounds} rounds"
    )
    return [report(title, runs, same_start=args.algorithm != "reward_model")]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 when the losses disagree."""
    return show(measure(argv))


def report(title: str, runs: Mapping[str, Sequence[Run]], *, same_start: bool) -> Outcome:
    """The losses' agreement, then times and memory.

    Args:
      title: of the comparison.
      runs: name -> a run of each round; our own first.
      same_start: whether the weights are the same at the start, so that losses must be.
    """
    gate = "the sides' heads start from different weights: losses are not compared"
    if same_start:
        ours, theirs = (np.array(rounds[0].losses) for rounds in runs.values())
        worst = float(np.max(np.abs(ours - theirs) / np.abs(theirs)))
        gate = f"losses agree within {worst:.1e} relative (required: {TOLERANCE:g})"
        if not worst <= TOLERANCE:
            return Outcome(title, gate, passed=False)
    sides = tuple(
        Side(
            name,
            # A round's steps differ by their lengths: what repeats is the median of a round.
            summarise([summarise(run.seconds).median for run in rounds]),
            max(run.peak for run in rounds),
        )
        for name, rounds in runs.items()
    )
    return Outcome(title, gate, passed=True, sides=sides)


def run_ours(
    folder: pathlib.Path,
    args: argparse.Namespace,
    number: int,
    *,
    held_out: pathlib.Path | None = None,
    overrides: Mapping[str, object] = MappingProxyType({}),
) -> Run:
    """`rlhf-jax train`; it writes its last checkpoint and the export.

    Args:
      folder: holds `rows.jsonl`; the run is written here.
      args: of the command line.
      number: of the run.
      held_out: JSONL that is evaluated on after the last step.
      overrides: of the configuration; they win.
    """
    run_dir = folder / f"run{number}"
    options: dict[str, object] = {
        "algorithm": args.algorithm,
        "run_dir": run_dir,
        "model.path": args.model,
        "data.path": folder / "rows.jsonl",
        "data.shuffle": "false",
        "data.max_length": args.max_length,
        "training.batch_size": args.batch_size,
        "training.max_steps": args.steps,
        "training.eval_every": 0,
        "training.save_every": 0,
        "optimizer.learning_rate": args.learning_rate,
        "optimizer.schedule": "linear",
        "mesh.fsdp": 1,
        "logging.tensorboard": "false",
        "logging.plot": "false",
    }
    if held_out is not None:
        options |= {"data.eval_path": held_out, "training.eval_every": args.steps}
    options |= overrides
    (folder / "run.yaml").write_text(f"algorithm: {{name: {options.pop('algorithm')}}}\n")
    words = [f"{name}={value}" for name, value in options.items()]
    command = command_of("rlhf_jax", python=None)
    command += ["train", str(folder / "run.yaml"), "--no-progress", *words]
    peak = run_alone("rlhf_jax", command, threads=args.threads, log=folder / "ours.log")
    every = list(read_metrics(run_dir / "metrics.jsonl"))
    rows = [row for row in every if row["split"] == "train"]
    evaluated = [row for row in every if row["split"] == "eval"]
    return Run(
        [row["loss/total"] for row in rows],
        [row["time/step"] for row in rows[WARM_UP:]],
        peak,
        [row["rewards/margin"] for row in rows if "rewards/margin" in row],
        _held_out(evaluated[-1], "loss/total", "rewards/accuracy") if evaluated else {},
    )


def _held_out(row: Mapping[str, float], loss: str, accuracy: str) -> dict[str, float]:
    found = {"loss": row[loss]}
    return found | ({"accuracy": row[accuracy]} if accuracy in row else {})


def run_trl(folder: pathlib.Path, args: argparse.Namespace, number: int, **options: object) -> Run:
    """TRL's trainer, in a process of its own.

    Args:
      folder: holds `rows.jsonl`; results are written here.
      args: of the command line.
      number: of the run.
      options: further ones of `trl_offline`, such as ``schedule="constant"``.
    """
    found = train_elsewhere(
        args.algorithm,
        args.model,
        folder / "rows.jsonl",
        folder / f"trl{number}.json",
        python=args.python,
        threads=args.threads,
        steps=args.steps,
        batch_size=args.batch_size,
        max_length=args.max_length,
        learning_rate=args.learning_rate,
        reference="precomputed",
        **options,
    )
    return Run(found.losses, found.seconds[WARM_UP:], found.peak, found.margins, found.held_out)


if __name__ == "__main__":
    sys.exit(main())
