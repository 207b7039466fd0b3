"""Speed of generation: this library's sampler and transformers' `generate`, the same weights.

    python -m rlhf_jax.bench.generation [--python PYTHON_WITH_TRANSFORMERS]

Qwen2-shaped model (hidden 256, 4 layers, 8/2 heads, intermediate 688, vocabulary 8192, tied), 64
prompts of 64 tokens, 128 new tokens, no EOS, float32, as many threads on every side. Each side is a
process; they take turns. First the greedy tokens must be equal, or no ratio is printed. On a GPU
weights are bfloat16, where nearly equal tokens change places: there no side's tokens may be less
likely than the best, by the float32 model, by more than 0.02 nats on average. `static
cache` is transformers' other cache; the faster of the two is the one to compare with. `...,
retained` run under the malloc settings that this library's entry point makes for itself
(`rlhf_jax.training.allocator`).
"""

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.bench.inputs import place_model, random_tokens
from rlhf_jax.bench.outcome import Outcome, Side, show
from rlhf_jax.bench.sides import (
    OURS,
    RETAINED,
    add_arguments,
    command_of,
    run_alone,
    start_side,
    take_turns,
)
from rlhf_jax.bench.timing import Timing, summarise

SIDES = (OURS, "transformers", "transformers, static cache", "transformers" + RETAINED)
MODULE = "rlhf_jax.bench.generation_sides"
REGRET = 0.02
"""Largest mean shortfall of greedy tokens in bfloat16, nats."""


class Found(NamedTuple):
    """What the sides did."""

    gate: str
    passed: bool
    times: dict[str, dict[str, Timing]]
    """Of "greedy" and "sampled", by side."""


def compare(args: argparse.Namespace) -> Found:
    """Runs the sides in turns."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        place_model(folder / "model", args.model)
        np.save(folder / "prompts.npy", random_tokens(args.rows, args.prompt, seed=0))
        common = {"python": args.python, "threads": args.threads, "device": args.device}
        sizes = (args.new_tokens, args.windows + 1, args.threads)
        processes = {
            name: start_side(name, MODULE, folder, *sizes, **common) for name in args.sides
        }
        answers = take_turns(processes, folder, rounds=args.windows + 2)
        gate, passed = near_best(folder, args) if args.device == "gpu" else equal(folder, args)
    times = {
        name: {
            kind: summarise([window[kind] for window in windows[2:]])
            for kind in ("greedy", "sampled")
        }
        for name, windows in answers.items()
    }
    return Found(gate, passed, times)


def equal(folder: pathlib.Path, args: argparse.Namespace) -> tuple[str, bool]:
    """The gate in float32: all sides have the same greedy tokens.

    Returns:
      What was found, and whether that is so.
    """
    first, *_ = tokens = [np.load(folder / f"{name}.npy") for name in args.sides]
    unequal = [int(np.sum(np.any(ids != first, axis=1))) for ids in tokens]
    counts = ", ".join(map(str, unequal))
    said = f"rows whose greedy tokens differ from the first side's (required: 0): {counts}"
    return said, not any(unequal)


def near_best(folder: pathlib.Path, args: argparse.Namespace) -> tuple[str, bool]:
    """The gate in bfloat16: every side's greedy tokens are nearly the best of the float32 model.

    Returns:
      What was found, and whether that is so.
    """
    command = [*command_of(MODULE, python=None), OURS, str(folder), "0", "0", str(args.threads)]
    command += ["--judge", *args.sides]
    run_alone("judge", command, threads=args.threads, log=folder / "judge.log", device=args.device)
    regrets = [float((folder / f"{name}.regret").read_text()) for name in args.sides]
    values = ", ".join(f"{regret:.1e}" for regret in regrets)
    said = (
        f"nats by which greedy tokens fall short of the float32 model's best, mean (required: "
        f"{REGRET:g} at most): {values}"
    )
    return said, max(regrets) <= REGRET


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
    found = compare(args)
    dtype = "float32" if args.device == "cpu" else "bfloat16, GPU"
    shape = (
        f"{args.rows} x ({args.prompt} + {args.new_tokens}) tokens, {dtype}, {args.threads} threads"
    )
    if not found.passed:
        return [Outcome(f"generation, {shape}", found.gate, passed=False)]
    return [
        Outcome(
            f"generation, {kind}, {shape}",
            found.gate,
            passed=True,
            sides=tuple(_side(name, found.times[name][kind], args) for name in args.sides),
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
