"""Speed of generation: this library's sampler and transformers' `generate`, the same weights.

    python -m rlhf_jax.bench.generation [--python PYTHON_WITH_TRANSFORMERS]

Qwen2-shaped model (hidden 256, 4 layers, 8/2 heads, intermediate 688, vocabulary 8192, tied), 64
prompts of 64 tokens, 128 new tokens, no EOS, float32, as many threads on every side. Each side is a
process; they take turns. First the greedy tokens must be equal, or no ratio is printed. `static
cache` is transformers' other cache; the faster of the two is the one to compare with. `...,
retained` run under the malloc settings that this library's entry point makes for itself
(`rlhf_jax.training.allocator`).
"""

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Sequence

import numpy as np

from rlhf_jax.bench.inputs import place_model, random_tokens
from rlhf_jax.bench.outcome import Outcome, Side, show
from rlhf_jax.bench.sides import OURS, RETAINED, add_arguments, start_side, take_turns
from rlhf_jax.bench.timing import Timing, summarise

SIDES = (OURS, "transformers", "transformers, static cache", "transformers" + RETAINED)
MODULE = "rlhf_jax.bench.generation_sides"


def compare(args: argparse.Namespace) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Timing]]]:
    """Runs the sides in turns.

    Returns:
      Per side: the greedy tokens; and the timings of "greedy" and "sampled".
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        place_model(folder / "model", args.model)
        np.save(folder / "prompts.npy", random_tokens(args.rows, args.prompt, seed=0))
        common = {"python": args.python, "threads": args.threads}
        sizes = (args.new_tokens, args.windows + 1, args.threads)
        processes = {
            name: start_side(name, MODULE, folder, *sizes, **common) for name in args.sides
        }
        answers = take_turns(processes, folder, rounds=args.windows + 2)
        tokens = {name: np.load(folder / f"{name}.npy") for name in args.sides}
    times = {
        name: {
            kind: summarise([window[kind] for window in windows[2:]])
            for kind in ("greedy", "sampled")
        }
        for name, windows in answers.items()
    }
    return tokens, times


def measure(argv: Sequence[str] | None = None) -> list[Outcome]:
    """Runs the sides that the command line asks for; sampled and greedy decoding."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, SIDES, windows=5)
    parser.add_argument("--rows", type=int, default=64, help="prompts")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--model", type=pathlib.Path, help="folder of another model")
    args = parser.parse_args(argv)
    tokens, times = compare(args)
    first = args.sides[0]
    unequal = [int(np.sum(np.any(ids != tokens[first], axis=1))) for ids in tokens.values()]
    shape = (
        f"{args.rows} x ({args.prompt} + {args.new_tokens}) tokens, float32, {args.threads} threads"
    )
    gate = "rows whose greedy tokens differ from the first side's (required: 0): " + ", ".join(
        map(str, unequal)
    )
    if any(unequal):
        return [Outcome(f"generation, {shape}", gate, passed=False)]
    return [
        Outcome(
            f"generation, {kind}, {shape}",
            gate,
            passed=True,
            sides=tuple(_side(name, times[name][kind], args) for name in args.sides),
        )
        for kind in ("sampled", "greedy")
    ]


def _side(name: str, timing: Timing, args: argparse.Namespace) -> Side:
    rate = args.rows * args.new_tokens / timing.median
    return Side(name, timing, note=f"{rate:.0f} tokens/s")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 when the greedy tokens differ."""
    return show(measure(argv))


if __name__ == "__main__":
    sys.exit(main())
