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

from rlhf_jax.bench.sides import OURS, answer, wait


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
    model, params = load_pretrained(folder / "model", mesh=mesh)
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
    import transformers

    torch.set_num_threads(threads)
    load = transformers.AutoModelForCausalLM.from_pretrained
    model = load(folder / "model", dtype=torch.float32, attn_implementation="sdpa").eval()
    ids = torch.from_numpy(np.load(folder / "prompts.npy").astype(np.int64))
    options: dict[str, Any] = {
        "max_new_tokens": new_tokens,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    options |= {"cache_implementation": "static", "disable_compile": True} if static else {}
    sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}

    @torch.inference_mode()
    def generate(sampled: bool) -> np.ndarray:
        how = sampling if sampled else {"do_sample": False}
        tokens = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **options, **how
        )
        return tokens[:, ids.shape[1] :].numpy()

    serve(generate, out, windows=windows)


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
    args = parser.parse_args()
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
