"""What sharing prompts and refilling slots gain in generation, this library alone.

    python -m rlhf_jax.bench.rollout_cost

Qwen2-shaped model (hidden 256, 4 layers, 8/2 heads, intermediate 688, vocabulary 8192, tied),
float32. First, prompts read once per group of 8 completions against once per completion. Then
completions of log-normal lengths (sigma 0.8), decoded by slots that are refilled (continuous
batching) against batches of as many rows that wait for their longest; useful tokens over slots x
steps.
"""

import argparse
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from rlhf_jax.bench.inputs import MODEL, random_tokens
from rlhf_jax.bench.lengths import lognormal_lengths
from rlhf_jax.bench.timing import Timing, interleave, summarise
from rlhf_jax.models import ModelConfig, init_model
from rlhf_jax.rollout import Generator, SamplingParams, make_generator
from rlhf_jax.training.allocator import retain_freed_memory
from rlhf_jax.types import Model, Params


class Batching(NamedTuple):
    """One way of decoding all completions."""

    utilisation: float
    """Useful tokens / (slots x steps)."""
    tokens: int
    """Useful ones."""
    time: Timing


def prefill_times(
    model: Model,
    params: Params,
    *,
    prompts: int,
    group_size: int,
    width: int,
    new_tokens: int,
    repeats: int,
) -> dict[str, Timing]:
    """Reading the prompts of groups once against once per completion.

    Args:
      model: with `prefill`.
      params: its parameters.
      prompts: groups.
      group_size: completions per prompt.
      width: tokens of a prompt.
      new_tokens: of a completion, for the positions.
      repeats: timed rounds.

    Returns:
      "shared" and "repeated".
    """
    assert model.prefill is not None
    shared = random_tokens(prompts, width, seed=0, vocab=model.config.vocab_size)
    read = jax.jit(model.prefill, static_argnames="row_length")
    sides = {}
    for name, tokens in (("shared", shared), ("repeated", np.repeat(shared, group_size, axis=0))):
        arguments = jax.device_put((tokens, np.full(len(tokens), width, np.int32)))
        sides[name] = lambda arguments=arguments: read(
            params, *arguments, row_length=width + new_tokens
        )
    return interleave(sides, repeats=repeats, warmup=2)


def batching(
    model: Model,
    params: Params,
    lengths: np.ndarray,
    *,
    slots: int,
    width: int,
    longest: int,
    repeats: int,
) -> dict[str, Batching]:
    """Continuous and static batching of the same completions.

    Args:
      model: with `prefill` and `decode`.
      params: its parameters.
      lengths: tokens that each completion is to have.
      slots: rows that decode at a time, on both sides.
      width: tokens of a prompt.
      longest: largest length.
      repeats: timed rounds.

    Returns:
      "continuous" and "static".
    """
    prompts = random_tokens(len(lengths), width, seed=1, vocab=model.config.vocab_size)
    counts = np.full(len(lengths), width, np.int32)

    def run(generator: Generator, size: int) -> tuple[int, int, float]:
        start = time.perf_counter()
        tokens = 0
        steps = 0
        for first in range(0, len(lengths), size):
            part = slice(first, first + size)
            _, stats = generator(
                params,
                prompts[part],
                counts[part],
                jax.random.key(0),
                SamplingParams(),
                limits=lengths[part],
            )
            tokens = tokens + stats.tokens
            steps = steps + stats.slot_steps
        return tokens, steps, time.perf_counter() - start

    def make(slots: int | None) -> Generator:
        return make_generator(
            model,
            mesh=None,
            max_new_tokens=longest,
            eos_ids=(),
            pad_id=0,
            group_size=1,
            prompt_buckets=(width,),
            slots=slots,
        )

    sides = {"continuous": (make(slots), len(lengths)), "static": (make(None), slots)}
    results = {name: [run(*side) for _ in range(1 + repeats)] for name, side in sides.items()}
    return {
        name: Batching(
            runs[-1][0] / runs[-1][1],
            runs[-1][0],
            summarise([seconds for _, _, seconds in runs[1:]]),
        )
        for name, runs in results.items()
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Prints both comparisons."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--width", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--completions", type=int, default=256, help="of log-normal length")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--median", type=float, default=64, help="of the lengths, in tokens")
    parser.add_argument("--longest", type=int, default=512)
    parser.add_argument(
        "--repeats",
        type=int,
        default=10,
        help="timed rounds of prefill; a third as many of the batching",
    )
    args = parser.parse_args(argv)
    retain_freed_memory()
    model, params = init_model(ModelConfig.from_hf(MODEL), jax.random.key(0))
    sizes = {"width": args.width, "repeats": args.repeats}
    times = prefill_times(
        model,
        params,
        prompts=args.prompts,
        group_size=args.group_size,
        new_tokens=args.longest,
        **sizes,
    )
    print(f"prefill of {args.prompts} prompts x {args.group_size} completions, {args.width} tokens")
    for name, timing in times.items():
        print(f"  {name:12s} {timing}   {timing.median / times['shared'].median:5.2f} x shared")
    lengths = lognormal_lengths(args.completions, median=args.median, longest=args.longest)
    sizes["repeats"] = max(1, args.repeats // 3)
    sides = batching(model, params, lengths, slots=args.slots, longest=args.longest, **sizes)
    print(
        f"{args.completions} completions of log-normal length, mean {lengths.mean():.0f}, longest "
        f"{lengths.max()}; {args.slots} rows at a time"
    )
    for name, side in sides.items():
        rate = side.tokens / side.time.median
        print(
            f"  {name:12s} utilisation {side.utilisation:.3f}   {side.time}   {rate:6.0f} useful "
            "tokens/s"
        )


if __name__ == "__main__":
    main()
