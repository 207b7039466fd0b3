"""TRL's DPOTrainer on a folder and a file of pairs: losses of every step as JSON (extra `bench`).

    python -m rlhf_jax.bench.trl_dpo MODEL_FOLDER PAIRS_JSONL OUT_JSON \\
        --steps 20 --batch-size 8 --learning-rate 5e-4

Float32, gradient checkpointing off, rows in file order, AdamW with linear decay and clipping at
1.0.
"""

import argparse
import json
import pathlib
import tempfile
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Trains and writes {"loss": [...], "accuracy": [...], "versions": {...}}."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("pairs")
    parser.add_argument("out")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--beta", type=float, default=0.1)
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

    class Recorder(trl.DPOTrainer):
        """DPOTrainer that keeps every loss unrounded and visits rows in order."""

        losses: list[float] = []

        def _get_train_sampler(self, *args, **kwargs):
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def compute_loss(self, *args, **kwargs):
            result = super().compute_loss(*args, **kwargs)
            self.losses.append(float((result[0] if isinstance(result, tuple) else result).detach()))
            return result

    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(args.model)
    rows = datasets.load_dataset("json", data_files=args.pairs, split="train")
    with tempfile.TemporaryDirectory() as folder:
        config = trl.DPOConfig(
            output_dir=folder,
            max_steps=args.steps,
            per_device_train_batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            beta=args.beta,
            max_length=None,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = Recorder(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
        trainer.train()
    history = [
        row["rewards/accuracies"]
        for row in trainer.state.log_history
        if "rewards/accuracies" in row
    ]
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
    }
    return {"loss": Recorder.losses, "accuracy": history, "versions": versions}


if __name__ == "__main__":
    main()
