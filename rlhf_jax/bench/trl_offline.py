"""TRL's SFT, reward and DPO trainers on a folder and a file: every step's loss and seconds as JSON.

    python start_side.py rlhf_jax.bench.trl_offline dpo MODEL_FOLDER ROWS_JSONL OUT_JSON \\
        --steps 20 --batch-size 8 --learning-rate 5e-4

Float32, gradient checkpointing off, rows in file order, AdamW with linear decay (or a constant
rate) and clipping at 1.0. Needs torch and trl (extra `bench`). `train_elsewhere` belongs to the
driver, the rest to the process that it starts. Standard library only at import (`start_side.py`).
"""

import argparse
import json
import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from rlhf_jax.bench.sides import command_of, run_alone
from rlhf_jax.bench.trl_sides import in_order, trainer_options


class Trained(NamedTuple):
    """What a run of TRL left."""

    losses: list[float]
    """Of every step."""
    seconds: list[float]
    """Of every step, from the end of the one before."""
    versions: dict[str, str]
    """Of torch, transformers and trl."""
    peak: int
    """Largest resident set of its process, bytes."""
    margins: list[float]
    """Chosen minus rejected reward of every step; SFT has none."""
    held_out: dict[str, float]
    """Loss, and of pairs the accuracy, on held-out rows after the last step."""


def train_elsewhere(
    algorithm: str,
    model: pathlib.Path,
    rows: pathlib.Path,
    out: pathlib.Path,
    *,
    python: str,
    threads: int,
    **options: object,
) -> Trained:
    """Trains with TRL in a process of its own.

    Args:
      algorithm: "sft", "reward_model" or "dpo".
      model: a Hugging Face folder.
      rows: JSONL.
      out: is written; the log goes beside it.
      python: interpreter that has torch and trl.
      threads: that the process may use.
      options: further ones of the command line, such as ``batch_size=4``.

    Raises:
      SystemExit: it failed; with the end of its log.
    """
    words = [algorithm, model, rows, out]
    for name, value in (options | {"threads": threads}).items():
        words += [f"--{name.replace('_', '-')}", value]
    command = command_of("rlhf_jax.bench.trl_offline", python=python)
    peak = run_alone(
        "TRL", [*command, *map(str, words)], threads=threads, log=out.with_suffix(".log")
    )
    found = json.loads(out.read_text())
    losses, seconds, versions = (found[name] for name in ("loss", "seconds", "versions"))
    return Trained(losses, seconds, versions, peak, found["margin"], found["held_out"])


def main(argv: Sequence[str] | None = None) -> None:
    """Trains and writes lists of every step (loss, seconds, margin), versions and held_out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("algorithm", choices=("sft", "reward_model", "dpo"))
    parser.add_argument("model")
    parser.add_argument("rows")
    parser.add_argument("out")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--max-length", type=int, help="of a row, in tokens")
    parser.add_argument("--reference", choices=("online", "precomputed"), default="online")
    parser.add_argument("--schedule", choices=("linear", "constant"), default="linear")
    parser.add_argument("--loss-type", default="sigmoid", help="of DPO")
    parser.add_argument("--label-smoothing", type=float, default=0.0, help="of DPO")
    parser.add_argument("--held-out", help="JSONL that is evaluated on after the last step")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    result = run(args)
    pathlib.Path(args.out).write_text(json.dumps(result))


def run(args: argparse.Namespace) -> dict[str, object]:
    """Trains with TRL; torch, transformers and trl are imported here, in a process of their own."""
    import datasets
    import torch
    import transformers
    import trl

    torch.set_num_threads(args.threads)
    losses: list[float] = []
    seconds: list[float] = []
    margins: list[float] = []

    class Clock(transformers.TrainerCallback):
        """From the end of a step to the end of the next: the batch is part of it."""

        last = 0.0

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.last = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            now = time.perf_counter()
            seconds.append(now - self.last)
            self.last = now

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
        ) -> None:
            names = [name for name in ("rewards/margins", "margin") if name in logs]
            margins.extend(logs[name] for name in names)

    trainers = {
        "sft": (trl.SFTTrainer, trl.SFTConfig),
        "reward_model": (trl.RewardTrainer, trl.RewardConfig),
        "dpo": (trl.DPOTrainer, trl.DPOConfig),
    }
    trainer_class: Any
    trainer_class, config_class = trainers[args.algorithm]

    own: dict[str, Any] = {}
    if args.algorithm == "dpo":
        own = {
            "beta": args.beta,
            "precompute_ref_log_probs": args.reference == "precomputed",
            "loss_type": args.loss_type,
            "label_smoothing": args.label_smoothing,
        }
    if args.algorithm == "reward_model":
        load: Any = transformers.AutoModelForSequenceClassification.from_pretrained
        model = load(args.model, dtype=torch.float32, num_labels=1)
    else:
        load = transformers.AutoModelForCausalLM.from_pretrained
        model = load(args.model, dtype=torch.float32)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(args.model)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    rows = datasets.load_dataset("json", data_files=args.rows, split="train")
    rows = rows.select(range(min(len(rows), args.steps * args.batch_size)))
    held_out = None
    if args.held_out is not None:
        held_out = datasets.load_dataset("json", data_files=args.held_out, split="train")
    with tempfile.TemporaryDirectory() as folder:
        config = config_class(
            output_dir=folder,
            max_steps=args.steps,
            per_device_train_batch_size=args.batch_size,
            per_device_eval_batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            lr_scheduler_type=args.schedule,
            max_length=args.max_length,
            **trainer_options(logging_steps=1),
            **own,
        )
        trainer = in_order(trainer_class, losses)(
            model=model,
            args=config,
            train_dataset=rows,
            eval_dataset=held_out,
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        trainer.train()
        trained = {"loss": losses[:], "seconds": seconds, "margin": margins[:]}
        found = trainer.evaluate() if held_out is not None else {}
    versions = {library.__name__: library.__version__ for library in (torch, transformers, trl)}
    return trained | {"versions": versions, "held_out": _held_out(found)}


def _held_out(found: dict[str, float]) -> dict[str, float]:
    """What TRL calls loss and accuracy, by our names."""
    names = {
        "eval_loss": "loss",
        "eval_rewards/accuracies": "accuracy",
        "eval_accuracy": "accuracy",
    }
    return {ours: found[name] for name, ours in names.items() if name in found}


if __name__ == "__main__":
    main()
