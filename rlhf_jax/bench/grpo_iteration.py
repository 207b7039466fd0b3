"""Time of one GRPO iteration in one run: this library, plain PyTorch, and TRL's GRPOTrainer.

    python -m rlhf_jax.bench.grpo_iteration [--python PYTHON_WITH_TRL]

Qwen2-shaped model (hidden 256, 4 layers, 8/2 heads, intermediate 688, vocabulary 8192, tied); 8
prompts of 64 tokens, 8 completions of 64 tokens each (no token ends one), sampled at temperature 1,
rewarded by the same function of the token ids, one update with AdamW and clipping at norm 1.0, no
KL, float32; same exported weights, as many threads on every side. Each side is a process; they take
turns, iteration by iteration. First, the loss and the gradient norm of the same completions
(off-policy, so that the clip acts) must agree within 1e-5 relative, or no ratio is printed. Ratios
are of medians, and in brackets of the best iterations.

Our side is a step of the online loop, with its tokenisation, decoding to text and pool of reward
processes; the plain loop has none of these. Every side skips the pass for old log-probabilities,
being on the policy, and computes the head on completions only. TRL generates with transformers, as
the plain loop does, and has gradient checkpointing off. `..., retained` are PyTorch sides under the
malloc settings that this library's entry point makes for itself (`rlhf_jax.training.allocator`).
"""

import pathlib
import sys
from collections.abc import Sequence

from rlhf_jax.bench import online_iteration
from rlhf_jax.bench.grpo_sides import GROUP
from rlhf_jax.bench.inputs import save_model
from rlhf_jax.bench.outcome import Outcome, show


def write_models(folder: pathlib.Path) -> None:
    """The policy."""
    save_model(folder / "model")


def measure(argv: Sequence[str] | None = None) -> list[Outcome]:
    """Runs the sides that the command line asks for."""
    return online_iteration.measure(
        argv, "grpo", __doc__, prompts=8, group_size=GROUP, write_models=write_models
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 when loss or gradient disagree."""
    return show(measure(argv))


if __name__ == "__main__":
    sys.exit(main())
