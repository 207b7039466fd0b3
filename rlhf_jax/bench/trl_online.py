"""TRL's GRPOTrainer on completions that were sampled elsewhere: the gradient norm of every update.

    python start_side.py rlhf_jax.bench.trl_online MODEL_FOLDER BATCHES_FOLDER OUT_JSON \\
        --steps 100 --learning-rate 1e-4 --loss-type grpo

BATCHES_FOLDER is `rollout.record` of a run. TRL takes completions and rewards from there, and
everything else is its own: advantages, log-probabilities before the update and of the reference,
loss, clipping, AdamW. Float32, a constant rate. Needs torch and trl (extra `bench`). Standard
library and NumPy only at import (`start_side.py`).
"""

import argparse
import json
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_jax.bench.trl_sides import trainer_options


def read_rows(folder: pathlib.Path, step: int) -> dict[str, list[Any]]:
    """What TRL wants of a sampler, and the rewards that its reward function gives back.

    Args:
      folder: `rollout.record` of a run.
      step: steps made before the batch.
    """
    with np.load(folder / f"batch_{step:08d}.npz", allow_pickle=False) as held:
        tokens = held["tokens"]
        mask = held["mask"]
        chosen = held["completion_mask"]
        logps = held["sampler_logps"]
        rewards = held["rewards"]
    rows = range(len(tokens))
    return {
        "prompt_ids": [tokens[row][mask[row] & ~chosen[row]].tolist() for row in rows],
        "completion_ids": [tokens[row][chosen[row]].tolist() for row in rows],
        "logprobs": [logps[row][chosen[row]].tolist() for row in rows],
        "recorded_reward": rewards.tolist(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Trains and writes the gradient norm of every update, and versions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("batches", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--group-size", type=int, required=True)
    parser.add_argument("--max-new-tokens", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--num-epochs", type=int, default=1, help="updates of a batch")
    parser.add_argument("--loss-type", default="grpo")
    parser.add_argument("--scale-rewards", default="group")
    parser.add_argument("--level", default="token", help="importance_sampling_level")
    parser.add_argument("--beta", type=float, default=0.0)
    parser.add_argument(
        "--bias-correction-kl",
        choices=("true", "false"),
        default="false",
        help="use_bias_correction_kl, true by default in TRL: the KL times the importance ratio",
    )
    parser.add_argument("--epsilon", type=float, default=0.2)
    parser.add_argument("--epsilon-high", type=float)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    args.out.write_text(json.dumps(run(args)))


def run(args: argparse.Namespace) -> dict[str, object]:
    """Trains with TRL; torch, transformers and trl are imported here, in a process of their own."""
    import datasets
    import torch
    import transformers
    import trl

    torch.set_num_threads(args.threads)
    rows = len(read_rows(args.batches, 0)["prompt_ids"])
    norms: list[float] = []

    class Norms(transformers.TrainerCallback):
        """Keeps what the trainer tells of every update."""

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
        ) -> None:
            if "grad_norm" in logs:
                norms.append(logs["grad_norm"])

    def sampled(prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
        return read_rows(args.batches, trainer.state.global_step // args.num_epochs)

    def given(completions: list[Any], recorded_reward: list[float], **columns: Any) -> list[float]:
        return recorded_reward

    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        config = trl.GRPOConfig(
            output_dir=folder,
            max_steps=args.steps * args.num_epochs,
            num_iterations=args.num_epochs,
            num_generations=args.group_size,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=1,
            max_completion_length=args.max_new_tokens,
            temperature=1.0,
            loss_type=args.loss_type,
            scale_rewards=args.scale_rewards,
            importance_sampling_level=args.level,
            beta=args.beta,
            use_bias_correction_kl=args.bias_correction_kl == "true",
            epsilon=args.epsilon,
            epsilon_high=args.epsilon_high,
            learning_rate=args.learning_rate,
            lr_scheduler_type="constant",
            shuffle_dataset=False,
            **trainer_options(logging_steps=1),
        )
        trainer = trl.GRPOTrainer(
            model=model,
            reward_funcs=given,
            args=config,
            # Never read: prompts come with the completions.
            train_dataset=datasets.Dataset.from_list([{"prompt": "-"}] * rows),
            processing_class=transformers.PreTrainedTokenizerFast.from_pretrained(args.model),
            rollout_func=sampled,
            callbacks=[Norms()],
        )
        trainer.train()
    versions = {library.__name__: library.__version__ for library in (torch, transformers, trl)}
    return {"gradient_norm": norms, "versions": versions}


if __name__ == "__main__":
    main()
