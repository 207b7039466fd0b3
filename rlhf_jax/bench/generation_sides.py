"""One side of the generation comparison, in its own process; `generation` starts and drives it.

FOLDER holds `model` and `prompts.npy` [B, Tp]. The first line on stdin asks for the greedy tokens,
which are written to FOLDER/SIDE.npy; every further line lets a window run: one greedy and one
sampled generation.
"""

import argparse
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rlhf_jax.bench import torch_sides
from rlhf_jax.bench.sides import OURS, answer, compute_dtype, on_gpu, wait


def serve(generate: Callable[[bool], np.ndarray], out: pathlib.Path, *, windows: int) -> None:
    """Answers the driver: the greedy tokens, then the seconds of each window.

    Args:
      generate: (sampled) -> new tokens [B, max_new_tokens].
      out: where the greedy tokens go.
      windows: to be run.
    """
    wait()
    np.save(out, generate(False))
    answer({})
    for _ in range(windows):
        wait()
        seconds = {}
        for kind, sampled in (("greedy", False), ("sampled", True)):
            start = time.perf_counter()
            generate(sampled)
            seconds[kind] = time.perf_counter() - start
        answer(seconds)


def run_ours(folder: pathlib.Path, out: pathlib.Path, *, new_tokens: int, windows: int) -> None:
    """This library's generator as the online loop calls it. Imports jax late: settings first."""
    from rlhf_jax.training.allocator import retain_freed_memory

    retain_freed_memory()
    import jax

    from rlhf_jax.models import load_pretrained
    from rlhf_jax.rollout import SamplingParams, make_generator
    from rlhf_jax.sharding import MeshConfig, make_mesh

    prompts = np.load(folder / "prompts.npy")
    rows, width = prompts.shape
    mesh = make_mesh(MeshConfig())
    # On a GPU in bfloat16 as a whole: a run casts its weights once before it samples.
    model, params = load_pretrained(folder / "model", mesh=mesh, dtype=compute_dtype())
    sizes: dict[str, Any] = {
        "max_new_tokens": new_tokens,
        "eos_ids": (),
        "pad_id": 0,
        "group_size": 1,
    }
    generator = make_generator(model, mesh=mesh, prompt_buckets=(width,), slots=None, **sizes)
    lengths = np.full(rows, width, np.int32)
    keys = iter(jax.random.split(jax.random.key(0), 2 * windows + 1))

    def generate(sampled: bool) -> np.ndarray:
        rollout, _ = generator(
            params, prompts, lengths, next(keys), SamplingParams(temperature=float(sampled))
        )
        return np.asarray(rollout.tokens)[:, width:]

    serve(generate, out, windows=windows)


def run_transformers(
    folder: pathlib.Path,
    out: pathlib.Path,
    *,
    new_tokens: int,
    windows: int,
    threads: int,
    static: bool,
) -> None:
    """transformers' `generate`, defaults apart from the length; `static`: with its static cache."""
    import torch

    torch.set_num_threads(threads)
    model = torch_sides.load(folder / "model", compute_only=True).eval()
    ids = torch.from_numpy(np.load(folder / "prompts.npy").astype(np.int64)).to(model.device)
    options: dict[str, Any] = {
        "max_new_tokens": new_tokens,
        "pad_token_id": 0,
    }
    if static:  # transformers compiles its static cache's decoding, on a GPU alone
        options |= {"cache_implementation": "static", "disable_compile": not on_gpu()}
    sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}

    @torch.inference_mode()
    def generate(sampled: bool) -> np.ndarray:
        how = sampling if sampled else {"do_sample": False}
        tokens = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **options, **how
        )
        return tokens[:, ids.shape[1] :].cpu().numpy()

    serve(generate, out, windows=windows)


def judge(folder: pathlib.Path, *names: str) -> None:
    """Writes FOLDER/SIDE.regret for sides: how much less likely each greedy token is than the best
    one, in nats, mean over all; by the whole forward pass in float32."""
    import jax
    import jax.numpy as jnp

    from rlhf_jax.models import load_pretrained

    model, params = load_pretrained(folder / "model")
    prompts = np.load(folder / "prompts.npy")

    @jax.jit
    def regret(tokens: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            logits = model.logits(params, tokens, jnp.ones_like(tokens, bool))
        before = logits[:, prompts.shape[1] - 1 : -1].astype(jnp.float32)
        taken = tokens[:, prompts.shape[1] :, None]
        return (before.max(-1) - jnp.take_along_axis(before, taken, 2)[..., 0]).mean()

    for name in names:
        tokens = np.concatenate([prompts, np.load(folder / f"{name}.npy")], axis=1)
        parts = [float(regret(part)) for part in np.split(tokens, range(8, len(tokens), 8))]
        (folder / f"{name}.regret").write_text(repr(float(np.mean(parts))))


def main() -> None:
    """Runs one side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("side")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("new_tokens", type=int)
    parser.add_argument("windows", type=int)
    parser.add_argument("threads", type=int)
    parser.add_argument("--judge", nargs="*", help="judge the tokens of these sides instead")
    args = parser.parse_args()
    if args.judge is not None:
        judge(args.folder, *args.judge)
        return
    out = args.folder / f"{args.side}.npy"
    sizes = {"new_tokens": args.new_tokens, "windows": args.windows}
    if args.side.startswith(OURS):
        run_ours(args.folder, out, **sizes)
    else:
        run_transformers(
            args.folder, out, threads=args.threads, static="static" in args.side, **sizes
        )


if __name__ == "__main__":
    main()
