"""Time and memory of the implementations of attention, and of PyTorch's sdpa where installed.

    # B=16, T=256, 8/2 heads of 32: the DPO comparison
    python -m rlhf_jax.bench.attention
    python -m rlhf_jax.bench.attention --batch 2 --length 2048
    # On a GPU, in bfloat16
    python -m rlhf_jax.bench.attention --batch 8 --length 2048 --heads 12 --head-dim 128

All sides run in one process, in turns. `--retain` first keeps freed memory
(`rlhf_jax.training.allocator`), which acts on all of them alike; without it a large part of the
larger times is page faults of temporaries.
"""

import argparse
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rlhf_jax.bench.timing import interleave
from rlhf_jax.models.attention import attention
from rlhf_jax.training.allocator import retain_freed_memory

IMPLEMENTATIONS = {
    "cpu": ("blocked", "dot_product", "xla"),
    "gpu": ("cudnn", "dot_product", "xla"),
}
"""Those that run on a platform."""


def jax_side(
    implementation: str, arrays: Sequence[Array]
) -> tuple[dict[str, Callable[[], Any]], int]:
    """Compiled forward and forward-backward of one implementation; temporary bytes of it."""
    *qkv, cotangent = arrays
    scale = qkv[0].shape[-1] ** -0.5

    def forward(q: Array, k: Array, v: Array) -> Array:
        return attention(q, k, v, scale=scale, implementation=implementation)

    def both(q: Array, k: Array, v: Array, cotangent: Array) -> Any:
        return jax.vjp(forward, q, k, v)[1](cotangent)

    fast = jax.jit(forward).lower(*qkv).compile()
    full = jax.jit(both).lower(*arrays).compile()
    runs = {
        f"{implementation} forward": lambda: fast(*qkv),
        f"{implementation} forward+backward": lambda: full(*arrays),
    }
    memory: Any = full.memory_analysis()
    return runs, memory.temp_size_in_bytes


def torch_side(arrays: Sequence[np.ndarray], threads: int) -> dict[str, Callable[[], Any]]:
    """The same through torch's sdpa, keys and values repeated as in transformers. Imports torch."""
    import torch

    torch.set_num_threads(threads)
    where: dict[str, Any] = {"device": "cpu"}
    if on_gpu():
        where = {"device": "cuda", "dtype": torch.bfloat16}
    q, k, v, cotangent = (
        torch.from_numpy(x).to(**where).transpose(1, 2).contiguous().requires_grad_()
        for x in arrays
    )
    group = q.shape[1] // k.shape[1]

    def forward() -> Any:
        keys, values = (x.repeat_interleave(group, 1) for x in (k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, keys, values, is_causal=True)

    def fast() -> None:
        with torch.no_grad():
            forward()
        finish()

    def full() -> None:
        torch.autograd.grad(forward(), (q, k, v), cotangent.detach())
        finish()

    def finish() -> None:
        if on_gpu():
            torch.cuda.synchronize()

    return {"torch sdpa forward": fast, "torch sdpa forward+backward": full}


def on_gpu() -> bool:
    """Whether JAX computes on a GPU, and with it the other side."""
    return jax.default_backend() == "gpu"


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line per side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--head-dim", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--retain", action="store_true", help="keep freed memory in the process")
    args = parser.parse_args(argv)
    if args.retain:
        retain_freed_memory()
    draw = np.random.default_rng(0)
    heads = (args.heads, args.kv_heads, args.kv_heads, args.heads)
    arrays = [
        draw.standard_normal((args.batch, args.length, n, args.head_dim), dtype=np.float32)
        for n in heads
    ]
    sides: dict[str, Callable[[], Any]] = {}
    print(
        f"causal attention, B={args.batch} T={args.length} heads {args.heads}/{args.kv_heads} of "
        f"{args.head_dim}, {'bfloat16, GPU' if on_gpu() else 'float32'}"
    )
    dtype = jnp.bfloat16 if on_gpu() else jnp.float32
    for name in IMPLEMENTATIONS[jax.default_backend()]:
        runs, temp = jax_side(name, [jnp.asarray(x, dtype) for x in arrays])
        sides |= runs
        print(f"  {name}: temporary memory of forward+backward {temp / 1e6:.1f} MB")
    if importlib.util.find_spec("torch") is not None:
        sides |= torch_side(arrays, args.threads)
    for name, timing in interleave(sides, repeats=args.repeats, warmup=3).items():
        print(f"  {name:28s} {timing}")


if __name__ == "__main__":
    main()
