"""Is our DPO TRL's DPO? The same exported weights and pairs, in order; every loss is compared.

    python -m rlhf_jax.bench.dpo_equivalence [--steps 20] [--python PYTHON_WITH_TRL] [--pairs FILE]

Float32, AdamW(0.9, 0.999, 1e-8) without decay, linear decay of the learning rate, clipping at norm
1.0, beta 0.1. TRL runs in a process of its own (extra `bench`, or another interpreter with
--python). Exit status 1 when a loss differs by more than 1e-3 relative.
"""

import argparse
import json
import pathlib
import random
import sys
import tempfile
from collections.abc import Sequence

import jax

from rlhf_jax.algorithms import DPOConfig
from rlhf_jax.bench.trl_offline import train_elsewhere
from rlhf_jax.config import CheckpointConfig, Config, LoggingConfig, ModelSection, TrainingConfig
from rlhf_jax.data import DataConfig, byte_tokenizer
from rlhf_jax.io import read_metrics
from rlhf_jax.models import ModelConfig, init_model
from rlhf_jax.runs import train
from rlhf_jax.runs.export import export_model
from rlhf_jax.sharding import MeshConfig
from rlhf_jax.training import OptimizerConfig

MODEL = {
    "model_type": "qwen2",
    "vocab_size": 320,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 344,
    "max_position_embeddings": 1024,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
TOLERANCE = 1e-3


def main(argv: Sequence[str] | None = None) -> int:
    """Runs both sides and prints a line per step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter that has torch and trl"
    )
    parser.add_argument("--threads", type=int, default=2, help="of TRL's side")
    parser.add_argument(
        "--pairs", help="JSONL with prompt, chosen, rejected; generated text when left out"
    )
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        start = export_start(folder / "start")
        pairs = (
            pathlib.Path(args.pairs)
            if args.pairs
            else write_pairs(folder / "pairs.jsonl", args.steps * args.batch_size)
        )
        ours = run_ours(folder / "run", start, pairs, args)
        theirs = train_elsewhere(
            "dpo",
            start,
            pairs,
            folder / "trl.json",
            python=args.python,
            threads=args.threads,
            steps=args.steps,
            batch_size=args.batch_size,
            learning_rate=args.learning_rate,
        )
    print(
        f"rlhf_jax (jax {jax.__version__}) against {theirs.versions}, {args.steps} steps of "
        f"{args.batch_size} pairs, float32"
    )
    worst = 0.0
    for step, (a, b) in enumerate(zip(ours, theirs.losses, strict=True), 1):
        difference = abs(a - b) / abs(b)
        worst = max(worst, difference)
        print(
            f"step {step:3d}  rlhf_jax {a:.7f}  TRL {b:.7f}  relative difference {difference:.2e}"
        )
    print(f"largest relative difference {worst:.2e} (required: below {TOLERANCE:g})")
    return int(worst >= TOLERANCE)


def export_start(folder: pathlib.Path) -> pathlib.Path:
    """Random weights as a Hugging Face folder, with the byte-level tokenizer."""
    model, params = init_model(ModelConfig.from_hf(MODEL), jax.random.key(0))
    return export_model(folder, model, params, byte_tokenizer())


def write_pairs(path: pathlib.Path, count: int) -> pathlib.Path:
    """Pairs of random words of ragged lengths, reproducible."""
    draw = random.Random(0)

    def words(low: int, high: int) -> str:
        return " ".join(
            "".join(draw.choices("abcdefghij", k=draw.randint(1, 8)))
            for _ in range(draw.randint(low, high))
        )

    rows = [
        {"prompt": words(3, 12) + ":", "chosen": " " + words(2, 20), "rejected": " " + words(2, 20)}
        for _ in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_ours(
    run_dir: pathlib.Path, start: pathlib.Path, pairs: pathlib.Path, args: argparse.Namespace
) -> list[float]:
    """Losses of a whole run of this library."""
    config = Config(
        algorithm=DPOConfig(),
        run_dir=str(run_dir),
        model=ModelSection(path=str(start)),
        data=DataConfig(path=str(pairs), shuffle=False),
        training=TrainingConfig(batch_size=args.batch_size, max_steps=args.steps, save_every=0),
        optimizer=OptimizerConfig(learning_rate=args.learning_rate, schedule="linear"),
        mesh=MeshConfig(fsdp=1),
        checkpoint=CheckpointConfig(),
        logging=LoggingConfig(tensorboard=False, plot=False),
    )
    train(config, progress=False)
    return [
        row["loss/total"]
        for row in read_metrics(run_dir / "metrics.jsonl")
        if row["split"] == "train"
    ]


if __name__ == "__main__":
    sys.exit(main())
