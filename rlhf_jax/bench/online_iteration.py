"""What comparisons of whole GRPO and PPO iterations share: options, the gate, the table."""

import argparse
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_jax.bench.inputs import place_model, random_tokens
from rlhf_jax.bench.outcome import Outcome, Side
from rlhf_jax.bench.rollout_cost import lognormal_lengths
from rlhf_jax.bench.sides import OURS, RETAINED, add_arguments, start_side, take_turns
from rlhf_jax.bench.timing import summarise

SIDES = (OURS, "plain PyTorch", "plain PyTorch" + RETAINED, "TRL", "TRL" + RETAINED)
TOLERANCES = {"cpu": 1e-5, "gpu": 3e-2}
"""Largest relative difference of a loss or gradient norm of the given completions, by device: a
GPU's products are bfloat16."""
PLAIN_MICROBATCHES = 4
"""Unless the command line says how many; 1 on the other sides. Of 1, 4 and 8: 4 is the fastest for
plain PyTorch (1 as fast once its memory is retained); 1 and 4 are level on ours."""


def measure(
    argv: Sequence[str] | None,
    algorithm: str,
    doc: str | None,
    *,
    prompts: int,
    group_size: int,
    write_models: Callable[[pathlib.Path], None],
) -> list[Outcome]:
    """Runs the sides in turns.

    Args:
      argv: command line.
      algorithm: "grpo" or "ppo".
      doc: description of the command.
      prompts: per iteration, by default.
      group_size: completions per prompt.
      write_models: saves the models that the sides load into a folder.

    Returns:
      One outcome; without times when the sides disagree on the given completions.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, SIDES, windows=3)
    parser.add_argument("--prompts", type=int, default=prompts)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--model", type=pathlib.Path, help="folder of another policy (GRPO only)")
    parser.add_argument("--microbatches", type=int, help="of the PyTorch sides")
    if algorithm == "ppo":
        parser.add_argument(
            "--ragged", action="store_true", help="completions of log-normal lengths (not for TRL)"
        )
    parser.set_defaults(ragged=False)
    args = parser.parse_args(argv)
    if args.device == "gpu" and algorithm == "ppo":
        parser.error("--device gpu: the PyTorch sides of PPO run on CPUs alone")
    if args.ragged and any(name.startswith("TRL") for name in args.sides):
        parser.error(
            "--ragged: TRL cannot be told where completions end; name the others, such as --sides "
            'rlhf_jax "plain PyTorch"'
        )
    rows = args.prompts * group_size
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        if args.model is None:
            write_models(folder)
        elif algorithm == "grpo":
            place_model(folder / "model", args.model)
        else:
            parser.error("--model names a policy, and PPO needs a critic beside it")
        write_tokens(
            folder, prompts=args.prompts, rows=rows, width=args.prompt, new_tokens=args.new_tokens
        )
        lengths = lengths_of(rows, args.new_tokens, ragged=args.ragged)
        np.save(folder / "lengths.npy", lengths)
        common = {"python": args.python, "threads": args.threads, "device": args.device}
        sizes = (algorithm, args.new_tokens, args.windows + 1, args.threads)
        processes = {
            name: start_side(
                name,
                _module(name, algorithm),
                folder,
                *sizes,
                _microbatches(name, args.microbatches),
                **common,
            )
            for name in args.sides
        }
        answers = take_turns(processes, folder, rounds=args.windows + 2)
    dtype = "float32" if args.device == "cpu" else "bfloat16 products, GPU"
    title = (
        f"{algorithm.upper()} iteration, {args.prompts} prompts x {group_size} completions, "
        f"{args.prompt} + {_lengths_text(lengths)}"
        f" tokens, {dtype}, {args.threads} threads, {args.windows} timed iterations per side"
    )
    return report(title, answers, tolerance=TOLERANCES[args.device])


def lengths_of(rows: int, longest: int, *, ragged: bool) -> np.ndarray:
    """Where completions are cut, the same on all sides and in every iteration: int32 [rows].

    Args:
      rows: completions.
      longest: tokens that are generated.
      ragged: log-normal lengths with a median of a quarter of the longest; otherwise all are whole.
    """
    if not ragged:
        return np.full(rows, longest, np.int32)
    return lognormal_lengths(rows, median=longest / 4, longest=longest)


def _lengths_text(lengths: np.ndarray) -> str:
    if lengths.min() == lengths.max():
        return str(lengths.max())
    median = np.median(lengths)
    return f"{lengths.min()} to {lengths.max()} (median {median:.0f}, mean {lengths.mean():.0f})"


def write_tokens(
    folder: pathlib.Path, *, prompts: int, rows: int, width: int, new_tokens: int
) -> None:
    """Prompts, and completions with noise on their log-probabilities for the gate."""
    np.save(folder / "prompts.npy", random_tokens(prompts, width, seed=0))
    np.save(folder / "completions.npy", random_tokens(rows, new_tokens, seed=1))
    np.save(
        folder / "noise.npy",
        np.random.default_rng(2).normal(0, 0.5, (rows, new_tokens)).astype(np.float32),
    )


def report(title: str, answers: Mapping[str, list[Any]], *, tolerance: float) -> list[Outcome]:
    """The gate, and where it is passed the times.

    Args:
      title: of the comparison.
      answers: per side: the gate, the warm-up iteration, the timed iterations.
      tolerance: of the gate, relative.

    Returns:
      The iteration, and the update alone of the sides that time it.
    """
    first = next(iter(answers))
    gates = {name: windows[0] for name, windows in answers.items()}
    worst = float(
        np.max([abs(gate[key] / gates[first][key] - 1) for gate in gates.values() for key in gate])
    )
    values = ", ".join(f"{key} {value:.6f}" for key, value in gates[first].items())
    gate = (
        f"on the same completions: {values}; sides agree within {worst:.1e} relative (required: "
        f"{tolerance:g})"
    )
    if not worst <= tolerance:
        return [Outcome(title, gate, passed=False)]
    sides = tuple(_side(name, windows) for name, windows in answers.items())
    found = [Outcome(title, gate, passed=True, sides=sides)]
    updates = tuple(
        Side(name, summarise([window["update"] for window in windows[2:]]))
        for name, windows in answers.items()
        if "update" in windows[-1]
    )
    if updates:
        found.append(Outcome(f"the update alone of: {title}", gate, passed=True, sides=updates))
    return found


def _side(name: str, windows: list[Any]) -> Side:
    timed = windows[2:]
    parts = [
        f"{part} {summarise([window[part] for window in timed]).median * 1e3:.1f} ms"
        for part in ("generation", "score", "update")
        if part in timed[0]
    ]
    peak = max(window["peak"] for window in windows[1:])
    return Side(name, summarise([window["seconds"] for window in timed]), peak, ", ".join(parts))


def _microbatches(name: str, given: int | None) -> int:
    if _is_ours(name):
        return 1
    return given or (PLAIN_MICROBATCHES if name.startswith("plain") else 1)


def _is_ours(name: str) -> bool:
    return name.startswith(OURS)


def _module(name: str, algorithm: str) -> str:
    return "rlhf_jax.bench." + ("online_ours" if _is_ours(name) else f"{algorithm}_sides")
