"""TRL's GRPOTrainer on prompts and a reward function of ours: the reward of every step as JSON.

    python start_side.py rlhf_jax.bench.trl_reward MODEL_FOLDER PROMPTS_JSONL REWARD.py OUT \\
        --steps 40 --group-size 8 --prompts-per-step 8 --max-new-tokens 16 --learning-rate 2e-6

It samples, grades and learns as a user of TRL would let it; the trained model is saved to
OUT/model. Float32, gradient checkpointing off. Needs torch and trl (extra `bench`). Standard
library only at import (`start_side.py`).
"""

import argparse
import json
import pathlib
import runpy
import time
from collections.abc import Sequence
from typing import Any

from rlhf_jax.bench.trl_sides import trainer_options


def main(argv: Sequence[str] | None = None) -> None:
    """Trains; writes OUT/model and OUT/steps.json (lists of every step: reward,
    length, seconds)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("prompts")
    parser.add_argument("reward", help="file with a function `exact`")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--prompts-per-step", type=int, required=True)
    parser.add_argument("--group-size", type=int, required=True)
    parser.add_argument("--max-new-tokens", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--schedule", default="constant")
    parser.add_argument("--loss-type", default="grpo")
    parser.add_argument("--epsilon-high", type=float)
    parser.add_argument("--mask-truncated", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    found = train(args)
    (args.out / "steps.json").write_text(json.dumps(found))


def train(args: argparse.Namespace) -> dict[str, list[float]]:
    """Trains with TRL; torch, transformers and trl are imported here, in a process of their own."""
    import datasets
    import torch
    import transformers
    import trl

    torch.set_num_threads(args.threads)
    found: dict[str, list[float]] = {"reward": [], "length": [], "seconds": []}

    class Steps(transformers.TrainerCallback):
        """Keeps what the trainer tells of every step."""

        last = 0.0

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.last = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            now = time.perf_counter()
            found["seconds"].append(now - self.last)
            self.last = now

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
        ) -> None:
            if "reward" in logs:
                found["reward"].append(float(logs["reward"]))
                found["length"].append(float(logs["completions/mean_length"]))

    config = trl.GRPOConfig(
        output_dir=str(args.out / "trainer"),
        max_steps=args.steps,
        num_generations=args.group_size,
        per_device_train_batch_size=args.prompts_per_step * args.group_size,
        max_completion_length=args.max_new_tokens,
        temperature=1.0,
        beta=0.0,
        loss_type=args.loss_type,
        epsilon_high=args.epsilon_high,
        mask_truncated_completions=args.mask_truncated,
        learning_rate=args.learning_rate,
        lr_scheduler_type=args.schedule,
        seed=args.seed,
        **trainer_options(logging_steps=1),
    )
    trainer = trl.GRPOTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32),
        reward_funcs=runpy.run_path(args.reward)["exact"],
        args=config,
        train_dataset=datasets.load_dataset("json", data_files=args.prompts, split="train"),
        processing_class=transformers.PreTrainedTokenizerFast.from_pretrained(args.model),
        callbacks=[Steps()],
    )
    trainer.train()
    trainer.save_model(str(args.out / "model"))
    return found


if __name__ == "__main__":
    main()
