"""What sides with PyTorch share: the model where it computes. Standard library only at import
(`start_side.py`); torch is imported where it is used."""

import contextlib
import pathlib
from typing import Any

from rlhf_jax.bench.sides import on_gpu


def device() -> str:
    """Of PyTorch's, for this side."""
    return "cuda" if on_gpu() else "cpu"


def load(folder: pathlib.Path, *, compute_only: bool = False) -> Any:
    """A causal language model with sdpa on the side's device; no token ends its completions.

    Args:
      folder: Hugging Face folder.
      compute_only: it is not trained: on a GPU its weights are bfloat16; otherwise float32.
    """
    import torch
    import transformers

    dtype = torch.bfloat16 if compute_only and on_gpu() else torch.float32
    load_model = transformers.AutoModelForCausalLM.from_pretrained
    model: Any = load_model(folder, dtype=dtype, attn_implementation="sdpa")
    # `generate(eos_token_id=None)` would fall back on what the folder names.
    model.generation_config.eos_token_id = None
    return model.to(device())


def products() -> Any:
    """Context in which products are bfloat16 on a GPU, and as the weights are on a CPU."""
    import torch

    if on_gpu():
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def finish() -> None:
    """Waits for what the GPU still does, before a clock is read."""
    if on_gpu():
        import torch

        torch.cuda.synchronize()


def adamw(parameters: Any, learning_rate: float) -> Any:
    """AdamW without weight decay, in one kernel on a GPU."""
    import torch

    options = {"fused": True} if on_gpu() else {}
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0, **options)
