"""rlhf_jax: SFT, reward modelling, DPO, PPO, GRPO and DAPO as pure jitted functions on a mesh.

Everything in `rlhf_jax.ops` and `rlhf_jax.algorithms` is a function of arrays;
`train(load_config("run.yaml", []))` is a whole run. Names that need the heavier parts of the stack
(configuration, tokenizers, checkpoints) are imported when first used, so `import rlhf_jax` costs
little more than `import jax` and `import flax`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from rlhf_jax.algorithms import (
    ALGORITHMS,
    dapo_loss,
    dpo_loss,
    grpo_loss,
    pairwise_reward_loss,
    ppo_loss,
    sft_loss,
)
from rlhf_jax.ops import (
    clipped_surrogate_loss,
    clipped_value_loss,
    fused_token_logps,
    gae,
    group_advantages,
    kl_estimate,
    kl_shaped_rewards,
    leave_one_out_advantages,
    loss_weights,
    masked_mean,
    masked_whiten,
    overlong_penalty,
    token_logps,
)
from rlhf_jax.rollout import SamplingParams, generate
from rlhf_jax.sharding import make_mesh
from rlhf_jax.training import TrainState, make_optimizer, make_train_state, make_update_step
from rlhf_jax.types import Algorithm, Model, PairBatch, PolicyBatch, Rollout, TokenBatch

if TYPE_CHECKING:
    from rlhf_jax.config import load_config as load_config
    from rlhf_jax.models import init_model as init_model
    from rlhf_jax.models import load_pretrained as load_pretrained
    from rlhf_jax.models import save_pretrained as save_pretrained
    from rlhf_jax.runs import train as train

__version__ = "0.1.0"

_LAZY = {
    "init_model": "rlhf_jax.models",
    "load_pretrained": "rlhf_jax.models",
    "save_pretrained": "rlhf_jax.models",
    "load_config": "rlhf_jax.config",
    "train": "rlhf_jax.runs",
}

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "Model",
    "PairBatch",
    "PolicyBatch",
    "Rollout",
    "SamplingParams",
    "TokenBatch",
    "TrainState",
    "clipped_surrogate_loss",
    "clipped_value_loss",
    "dapo_loss",
    "dpo_loss",
    "fused_token_logps",
    "gae",
    "generate",
    "group_advantages",
    "grpo_loss",
    "init_model",
    "kl_estimate",
    "kl_shaped_rewards",
    "leave_one_out_advantages",
    "load_config",
    "load_pretrained",
    "loss_weights",
    "make_mesh",
    "make_optimizer",
    "make_train_state",
    "make_update_step",
    "masked_mean",
    "masked_whiten",
    "overlong_penalty",
    "pairwise_reward_loss",
    "ppo_loss",
    "save_pretrained",
    "sft_loss",
    "token_logps",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'rlhf_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
