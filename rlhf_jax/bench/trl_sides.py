"""What all sides that run TRL share. Standard library only at import: they run in an interpreter
that need not have JAX (`start_side.py`), and torch is imported where it is used."""

from typing import Any

from rlhf_jax.bench.sides import on_gpu


def trainer_options(**own: Any) -> dict[str, Any]:
    """Options of every TRL trainer that is compared: float32 on CPUs, products in bfloat16 on a
    GPU, no gradient checkpointing, nothing written and nothing shown.

    Args:
      own: of the trainer at hand; they win.
    """
    return {
        "bf16": on_gpu(),
        "gradient_checkpointing": False,
        "use_cpu": not on_gpu(),
        "logging_steps": 10**6,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    } | own


def in_order(trainer: Any, losses: list[float]) -> Any:
    """A trainer that visits rows in their order and keeps every loss unrounded.

    Args:
      trainer: a class of TRL.
      losses: they are appended here.
    """
    import torch

    class InOrder(trainer):
        """See `in_order`."""

        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            result = super().compute_loss(*args, **kwargs)
            losses.append(float((result[0] if isinstance(result, tuple) else result).detach()))
            return result

    return InOrder
