"""Time of one DPO step: this library, a plain PyTorch loop (transformers + sdpa), and TRL's DPOTrainer, in one run.

    python -m rlhf_jax.bench.dpo_step [--reference online|precomputed] [--python PYTHON_WITH_TRL]

Qwen2-shaped model (hidden 256, 4 layers, 8/2 heads, intermediate 688, vocabulary 8192, tied), 8 pairs of 256 tokens of which 128
are the prompt, AdamW, clipping at 1.0, float32, same exported weights, same tokens in the same order, as many threads on every
side. Each side is a process; they take turns, window by window. First the losses of all steps must agree within 1e-3 relative,
or no ratio is printed.

Sides: `rlhf_jax` computes the head on the completion only, as its loader asks for; `rlhf_jax, whole head` on every token, as the
PyTorch sides do. `..., retained` are PyTorch sides under the malloc settings that this library's entry point makes for itself
(`rlhf_jax.training.allocator`), given to them through the environment.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax.bench.timing import Timing, summarise
from rlhf_jax.models import ModelConfig, init_model, save_pretrained

MODEL = {
    "model_type": "qwen2",
    "vocab_size": 8192,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 688,
    "max_position_embeddings": 1024,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
SIDES = ("rlhf_jax", "rlhf_jax, whole head", "plain PyTorch", "plain PyTorch, retained", "TRL", "TRL, retained")
TOLERANCE = 1e-3
_RETAIN = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}


class Result(NamedTuple):
    """One side."""

    losses: list[float]
    """Of every step, the warm-up window included."""
    seconds: list[float]
    """Per step, one value per window after the first."""


def write_inputs(folder: pathlib.Path, *, pairs: int, length: int) -> None:
    """Random weights as a Hugging Face folder and random token pairs that share their prompts' ids with nothing."""
    model, params = init_model(ModelConfig.from_hf(MODEL), jax.random.key(0))
    save_pretrained(folder / "model", model, params)
    draw = np.random.default_rng(0)
    tokens = draw.integers(2, int(str(MODEL["vocab_size"])), (pairs, 2, length), dtype=np.int32)
    tokens[:, 1, : length // 2] = tokens[:, 0, : length // 2]
    np.save(folder / "tokens.npy", tokens)


def start_side(name: str, folder: pathlib.Path, args: argparse.Namespace) -> subprocess.Popen[str]:
    """Starts one side's process; it waits for its first line."""
    script = pathlib.Path(__file__).with_name("dpo_sides.py")
    python = sys.executable if name.startswith("rlhf_jax") else args.python
    sizes = [str(n) for n in (args.steps, args.windows + 1, args.threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "JAX_PLATFORMS": "cpu"}
    environment |= _RETAIN if name.endswith("retained") else {}
    command = [python, str(script), name, str(folder), args.reference, *sizes]
    with (folder / f"{name}.log").open("w") as log:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)


def ask(name: str, process: subprocess.Popen[str], folder: pathlib.Path) -> dict[str, Any]:
    """Lets one window run and waits for its result."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith("@@"):
            return json.loads(line[2:])
    end = (folder / f"{name}.log").read_text()[-2000:]
    raise SystemExit(f"the side {name!r} failed (the PyTorch sides need the extra `bench`, or --python):\n{end}")


def compare(args: argparse.Namespace) -> dict[str, Result]:
    """Runs the sides in turns: one warm-up window each, then `args.windows` rounds."""
    results = {name: Result([], []) for name in args.sides}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        write_inputs(folder, pairs=4 * 8, length=256)
        processes = {name: start_side(name, folder, args) for name in args.sides}
        try:
            for window in range(args.windows + 1):
                for name, process in processes.items():
                    window_result = ask(name, process, folder)
                    results[name].losses.extend(window_result["losses"])
                    if window:
                        results[name].seconds.append(window_result["seconds"] / args.steps)
        finally:
            for process in processes.values():
                process.kill()
                process.communicate()
    return results


def disagreement(results: dict[str, Result]) -> float:
    """Largest relative difference of a loss from the first side's, over all steps and sides."""
    losses = np.array([result.losses for result in results.values()])
    return float(np.max(np.abs(losses - losses[0]) / np.abs(losses[0])))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 when the losses disagree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", choices=("online", "precomputed"), default="online", help="reference log-probabilities")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has torch, transformers and trl")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--steps", type=int, default=2, help="steps per window")
    parser.add_argument("--windows", type=int, default=5, help="timed windows per side")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    results = compare(args)
    worst = disagreement(results)
    steps = len(results[args.sides[0]].losses)
    print(f"DPO, 8 pairs of 256 tokens, float32, {args.threads} threads, reference {args.reference}, {steps} steps per side")
    print(f"losses agree within {worst:.1e} relative (required: {TOLERANCE:g})")
    if worst > TOLERANCE:
        return 1
    times: dict[str, Timing] = {name: summarise(result.seconds) for name, result in results.items()}
    first = times[args.sides[0]].median
    for name, timing in times.items():
        print(f"  {name:26s} {timing}   {timing.median / first:5.2f} x {args.sides[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
