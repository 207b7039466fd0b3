"""Time of one DPO step in one run: this library, plain PyTorch (transformers, sdpa), and TRL.

    python -m rlhf_jax.bench.dpo_step [--reference online|precomputed] [--python PYTHON_WITH_TRL]
    python -m rlhf_jax.bench.dpo_step --device gpu --model FOLDER --length 1024 --rate 1e-6

Unless a model is given: Qwen2-shaped (hidden 256, 4 layers, 8/2 heads, intermediate 688, vocabulary
8192, tied). 8 pairs of 256 tokens of which half are the prompt, AdamW, clipping at 1.0, float32 (on
a GPU bfloat16 products), same exported weights, same tokens in the same order, as many threads on
every side. Each side is a process; they take turns, window by window. First the losses of all steps
must agree within 1e-3 relative (in bfloat16 within 2e-2), or no ratio is printed.

Sides: `rlhf_jax` computes the head on the completion only, as its loader asks for; `rlhf_jax, whole
head` on every token, as the PyTorch sides do. `..., retained` are PyTorch sides under the malloc
settings that this library's entry point makes for itself (`rlhf_jax.training.allocator`), given to
them through the environment.
"""

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.bench.inputs import place_model
from rlhf_jax.bench.low_ids import vocab_size
from rlhf_jax.bench.outcome import Outcome, Side, show
from rlhf_jax.bench.sides import add_arguments, start_side, take_turns
from rlhf_jax.bench.timing import summarise

SIDES = (
    "rlhf_jax",
    "rlhf_jax, whole head",
    "plain PyTorch",
    "plain PyTorch, retained",
    "TRL",
    "TRL, retained",
)
TOLERANCES = {"cpu": 1e-3, "gpu": 2e-2}


class Result(NamedTuple):
    """One side."""

    losses: list[float]
    """Of every step, the warm-up window included."""
    seconds: list[float]
    """Per step, one value per window after the first."""
    peak: int
    """Bytes, see `sides.peak_bytes`."""


def write_inputs(
    folder: pathlib.Path, model: pathlib.Path | None, *, pairs: int, length: int
) -> None:
    """The model, and random pairs that share nothing but prompts."""
    place_model(folder / "model", model)
    draw = np.random.default_rng(0)
    vocab = vocab_size(folder / "model")
    tokens = draw.integers(2, vocab, (pairs, 2, length), dtype=np.int32)
    tokens[:, 1, : length // 2] = tokens[:, 0, : length // 2]
    np.save(folder / "tokens.npy", tokens)


def compare(args: argparse.Namespace) -> dict[str, Result]:
    """Runs the sides in turns: one warm-up window each, then `args.windows` rounds."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        write_inputs(folder, args.model, pairs=4 * args.pairs, length=args.length)
        common = {"python": args.python, "threads": args.threads, "device": args.device}
        sizes = (args.reference, args.steps, args.windows + 1, args.threads, args.pairs, args.rate)
        processes = {
            name: start_side(name, "rlhf_jax.bench.dpo_sides", folder, *sizes, **common)
            for name in args.sides
        }
        answers = take_turns(processes, folder, rounds=args.windows + 1)
    return {
        name: Result(
            [loss for window in windows for loss in window["losses"]],
            [w["seconds"] / args.steps for w in windows[1:]],
            windows[-1]["peak"],
        )
        for name, windows in answers.items()
    }


def disagreement(results: dict[str, Result]) -> float:
    """Largest relative difference of a loss from the first side's, over all steps and sides."""
    losses = np.array([result.losses for result in results.values()])
    return float(np.max(np.abs(losses - losses[0]) / np.abs(losses[0])))


def measure(argv: Sequence[str] | None = None) -> list[Outcome]:
    """Runs the sides that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--reference",
        choices=("online", "precomputed"),
        default="online",
        help="reference log-probabilities",
    )
    parser.add_argument("--steps", type=int, default=2, help="steps per window")
    parser.add_argument("--model", type=pathlib.Path, help="folder of another model")
    parser.add_argument("--pairs", type=int, default=8, help="of a step")
    parser.add_argument("--length", type=int, default=256, help="tokens of a row, half are prompt")
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate")
    add_arguments(parser, SIDES, windows=5)
    args = parser.parse_args(argv)
    results = compare(args)
    worst = disagreement(results)
    steps = len(results[args.sides[0]].losses)
    dtype = "float32" if args.device == "cpu" else "bfloat16 products, GPU"
    title = (
        f"DPO step, {args.pairs} pairs of {args.length} tokens, {dtype}, {args.threads} threads, "
        f"reference {args.reference}, {steps} steps per side"
    )
    tolerance = TOLERANCES[args.device]
    gate = f"losses agree within {worst:.1e} relative (required: {tolerance:g})"
    if not worst <= tolerance:
        return [Outcome(title, gate, passed=False)]
    tokens = 2 * args.pairs * args.length
    sides = [
        _side(name, result, tokens, on_gpu=args.device == "gpu") for name, result in results.items()
    ]
    return [Outcome(title, gate, passed=True, sides=tuple(sides))]


def _side(name: str, result: Result, tokens: int, *, on_gpu: bool) -> Side:
    timing = summarise(result.seconds)
    # On a CPU the peak would be that of the driver's process and of compiling.
    peak = result.peak if on_gpu else None
    return Side(name, timing, peak, f"{tokens / timing.median:.0f} tokens/s")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 when the losses disagree."""
    return show(measure(argv))


if __name__ == "__main__":
    sys.exit(main())
