"""Time of one PPO iteration in one run: this library, plain PyTorch, and TRL's PPOTrainer.

    python -m rlhf_jax.bench.ppo_iteration [--python PYTHON_WITH_TRL_1.10]
    python -m rlhf_jax.bench.ppo_iteration --ragged --sides rlhf_jax "plain PyTorch"

TRL had PPO up to version 1.10 (`trl.experimental.ppo`); `pip install --no-deps --target FOLDER
trl==1.10.0` and PYTHONPATH=FOLDER give it to an interpreter of the `bench` extra.

Qwen2-shaped policy, reference and critic (hidden 256, 4 layers, 8/2 heads, intermediate 688,
vocabulary 8192, tied); 64 prompts of 64 tokens, one completion of 64 tokens each (no EOS), sampled
at temperature 1, rewarded by the same function of the token ids (no reward model on any side), k1
to the reference in the reward, GAE, one epoch of one update of policy and critic with AdamW, no
clipping of the gradient (TRL's PPO has none), float32; same exported weights, as many threads on
every side. Each side is a process; they take turns, iteration by iteration. First, both losses and
the gradient norm of the same completions (off-policy, so that the clip acts) must agree within 1e-5
relative, or no ratio is printed. Ratios are of medians, and in brackets of the best iterations.

With `--ragged` every completion is cut at a log-normal length (median a quarter of the longest, the
same lengths on all sides), as if its end had come: all sides generate to the longest, grade, score
and train on what is left. A microbatch of the plain loop is as wide as its longest row. The update
is timed alone too: advantages, losses, gradients, AdamW.

Our side is a step of the online loop, with its tokenisation, decoding to text and pool of reward
processes; the plain loop has none of these. It packs ragged completions (`training.pack`), and not
rows that are all full. All sides read the log-probabilities before the update off the logits of the
generation. `..., retained` are PyTorch sides under the malloc settings that this library's entry
point makes for itself (`rlhf_jax.training.allocator`).
"""

import pathlib
import sys
from collections.abc import Sequence

from rlhf_jax.bench import online_iteration
from rlhf_jax.bench.inputs import save_model
from rlhf_jax.bench.outcome import Outcome, show


def write_models(folder: pathlib.Path) -> None:
    """Policy, another model as the reference (so that the KL acts in the gate), critic."""
    save_model(folder / "model")
    save_model(folder / "reference", seed=1)
    save_model(folder / "critic", seed=2, head="reward")


def measure(argv: Sequence[str] | None = None) -> list[Outcome]:
    """Runs the sides that the command line asks for."""
    return online_iteration.measure(
        argv, "ppo", __doc__, prompts=64, group_size=1, write_models=write_models
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 when losses or gradient disagree."""
    return show(measure(argv))


if __name__ == "__main__":
    sys.exit(main())
