"""Memory and time of `fused_token_logps` against logits, log-softmax, gather, in one process.

    # N=2048, D=896, V=151936: a minute or two; then the size of the DPO comparison
    python -m rlhf_jax.bench.fused_logps
    python -m rlhf_jax.bench.fused_logps --rows 4096 --width 256 --vocab 8192

Both sides compute the mean log-probability of N rows and its gradients by the hidden states and the
unembedding.
"""

import argparse
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rlhf_jax.bench.timing import Timing, interleave
from rlhf_jax.ops.fused import fused_token_logps


class Report(NamedTuple):
    """Figures of one comparison."""

    temp_bytes: dict[str, int]
    times: dict[str, Timing]
    errors: dict[str, float]
    """Largest absolute difference over largest absolute value, per result."""


def plain_loss(hidden: Array, unembed: Array, tokens: Array) -> Array:
    """Mean of -log p through logits; log_softmax before the gather would take half more."""
    logits = jnp.einsum("btd,vd->btv", hidden, unembed, preferred_element_type=jnp.float32)
    taken = jnp.take_along_axis(logits, jnp.roll(tokens, -1, axis=1)[:, :, None], axis=2)[:, :, 0]
    logps = taken - jax.nn.logsumexp(logits, axis=2)
    return -logps[:, :-1].sum() / tokens.size


def fused_loss(hidden: Array, unembed: Array, tokens: Array, block: int | None = None) -> Array:
    """The same through `fused_token_logps`."""
    return -fused_token_logps(hidden, unembed, tokens, block=block)[0].sum() / tokens.size


def compile_sides(
    rows: int, width: int, vocab: int, dtype: str, block: int | None = None
) -> dict[str, jax.stages.Compiled]:
    """Loss-and-gradients programs, compiled from shapes alone."""
    shapes = (
        jax.ShapeDtypeStruct((1, rows, width), dtype),
        jax.ShapeDtypeStruct((vocab, width), dtype),
        jax.ShapeDtypeStruct((1, rows), jnp.int32),
    )
    losses: dict[str, Any] = {
        "plain": plain_loss,
        "fused": functools.partial(fused_loss, block=block),
    }
    return {
        name: jax.jit(jax.value_and_grad(f, argnums=(0, 1))).lower(*shapes).compile()
        for name, f in losses.items()
    }


def compare(
    rows: int,
    width: int,
    vocab: int,
    *,
    dtype: str = "float32",
    repeats: int = 5,
    block: int | None = None,
) -> Report:
    """Compiles both sides, checks that they agree, times them interleaved."""
    keys = jax.random.split(jax.random.key(0), 3)
    hidden = jax.random.normal(keys[0], (1, rows, width), dtype)
    unembed = jax.random.normal(keys[1], (vocab, width), dtype) * width**-0.5
    tokens = jax.random.randint(keys[2], (1, rows), 0, vocab)
    sides = compile_sides(rows, width, vocab, dtype, block)
    errors = {}
    plain, fused = (
        jax.tree.leaves(sides[name](hidden, unembed, tokens)) for name in ("plain", "fused")
    )
    for name, a, b in zip(("loss", "d hidden", "d unembed"), plain, fused, strict=True):
        errors[name] = float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(a)))
    del plain, fused
    times = interleave(
        {name: functools.partial(f, hidden, unembed, tokens) for name, f in sides.items()},
        repeats=repeats,
    )
    return Report({name: temporary_bytes(f) for name, f in sides.items()}, times, errors)


def temporary_bytes(compiled: jax.stages.Compiled) -> int:
    """Temporary memory of a compiled program, as the compiler plans it."""
    analysis: Any = compiled.memory_analysis()
    return analysis.temp_size_in_bytes


def main(argv: list[str] | None = None) -> None:
    """Measures both sides at the sizes given and prints the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2048, help="N, tokens scored (default 2048)")
    parser.add_argument("--width", type=int, default=896, help="D (default 896)")
    parser.add_argument("--vocab", type=int, default=151936, help="V (default 151936)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--block",
        type=int,
        default=None,
        help="vocabulary entries per chunk (default: the library's rule)",
    )
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    report = compare(
        args.rows, args.width, args.vocab, dtype=args.dtype, repeats=args.repeats, block=args.block
    )
    print(
        f"loss and gradients, N={args.rows} D={args.width} V={args.vocab} {args.dtype}, "
        f"{jax.default_backend()}"
    )
    for name in ("plain", "fused"):
        print(
            f"  {name}: temporary memory {report.temp_bytes[name] / 1e6:9.1f} MB   time "
            f"{report.times[name]}"
        )
    print(
        f"  memory, plain over fused: {report.temp_bytes['plain'] / report.temp_bytes['fused']:.1f}"
    )
    print(
        "  time, fused over plain:   "
        f"{report.times['fused'].median / report.times['plain'].median:.3f}"
    )
    print(
        "  agreement: " + ", ".join(f"{name} {error:.1e}" for name, error in report.errors.items())
    )


if __name__ == "__main__":
    main()
