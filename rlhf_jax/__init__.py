"""rlhf_jax: SFT, reward modelling, DPO, PPO, GRPO and DAPO as pure jitted functions on a mesh.

Three layers, each usable without the one above it:

* losses and array maths (`dpo_loss`, `group_advantages`, ...): functions of arrays, nothing else;
* building blocks: `load`, `init_model`, `generate`, `make_loader`, `make_algorithm`, `make_step`,
  and whole runs of tiny models in one program (`make_fused_fit`, `make_fused_loop`);
* whole runs: `train` with a folder, checkpoints and metrics, from a file, a dict, or Python objects
  (rows, reward functions); `evaluate`, `complete`.

A name is imported when it is first used, so that `import rlhf_jax` costs nothing, and what is used
costs no more than itself.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_jax.algorithms import ALGORITHMS as ALGORITHMS
    from rlhf_jax.algorithms import DAPOConfig as DAPOConfig
    from rlhf_jax.algorithms import DPOConfig as DPOConfig
    from rlhf_jax.algorithms import GRPOConfig as GRPOConfig
    from rlhf_jax.algorithms import PPOConfig as PPOConfig
    from rlhf_jax.algorithms import RewardModelConfig as RewardModelConfig
    from rlhf_jax.algorithms import SFTConfig as SFTConfig
    from rlhf_jax.algorithms import dapo_loss as dapo_loss
    from rlhf_jax.algorithms import dpo_loss as dpo_loss
    from rlhf_jax.algorithms import grpo_loss as grpo_loss
    from rlhf_jax.algorithms import make_algorithm as make_algorithm
    from rlhf_jax.algorithms import pairwise_reward_loss as pairwise_reward_loss
    from rlhf_jax.algorithms import ppo_loss as ppo_loss
    from rlhf_jax.algorithms import register as register
    from rlhf_jax.algorithms import sft_loss as sft_loss
    from rlhf_jax.config import Config as Config
    from rlhf_jax.config import load_config as load_config
    from rlhf_jax.config import make_config as make_config
    from rlhf_jax.data import DataConfig as DataConfig
    from rlhf_jax.data import load_tokenizer as load_tokenizer
    from rlhf_jax.data import make_loader as make_loader
    from rlhf_jax.data import make_prompt_loader as make_prompt_loader
    from rlhf_jax.fused import FusedConfig as FusedConfig
    from rlhf_jax.fused import GenerationShape as GenerationShape
    from rlhf_jax.fused import make_fused_fit as make_fused_fit
    from rlhf_jax.fused import make_fused_loop as make_fused_loop
    from rlhf_jax.io import read_metrics as read_metrics
    from rlhf_jax.models import ModelConfig as ModelConfig
    from rlhf_jax.models import init_model as init_model
    from rlhf_jax.models import load_pretrained as load_pretrained
    from rlhf_jax.models import save_pretrained as save_pretrained
    from rlhf_jax.ops import clipped_surrogate_loss as clipped_surrogate_loss
    from rlhf_jax.ops import clipped_value_loss as clipped_value_loss
    from rlhf_jax.ops import fused_token_logps as fused_token_logps
    from rlhf_jax.ops import gae as gae
    from rlhf_jax.ops import group_advantages as group_advantages
    from rlhf_jax.ops import kl_estimate as kl_estimate
    from rlhf_jax.ops import kl_shaped_rewards as kl_shaped_rewards
    from rlhf_jax.ops import leave_one_out_advantages as leave_one_out_advantages
    from rlhf_jax.ops import loss_weights as loss_weights
    from rlhf_jax.ops import masked_mean as masked_mean
    from rlhf_jax.ops import masked_whiten as masked_whiten
    from rlhf_jax.ops import overlong_penalty as overlong_penalty
    from rlhf_jax.ops import token_logps as token_logps
    from rlhf_jax.ops import weighted_sum as weighted_sum
    from rlhf_jax.rollout import SamplingParams as SamplingParams
    from rlhf_jax.rollout import generate as generate
    from rlhf_jax.runs import Completions as Completions
    from rlhf_jax.runs import LoadedModel as LoadedModel
    from rlhf_jax.runs import RunResult as RunResult
    from rlhf_jax.runs.complete import complete as complete
    from rlhf_jax.runs.evaluate import evaluate as evaluate
    from rlhf_jax.runs.load import load as load
    from rlhf_jax.runs.train import train as train
    from rlhf_jax.sharding import make_mesh as make_mesh
    from rlhf_jax.training import OptimizerConfig as OptimizerConfig
    from rlhf_jax.training import TrainState as TrainState
    from rlhf_jax.training import make_optimizer as make_optimizer
    from rlhf_jax.training import make_optimizers as make_optimizers
    from rlhf_jax.training import make_score as make_score
    from rlhf_jax.training import make_step as make_step
    from rlhf_jax.training import make_train_state as make_train_state
    from rlhf_jax.training import make_update_step as make_update_step
    from rlhf_jax.types import Algorithm as Algorithm
    from rlhf_jax.types import Model as Model
    from rlhf_jax.types import Models as Models
    from rlhf_jax.types import PairBatch as PairBatch
    from rlhf_jax.types import PolicyBatch as PolicyBatch
    from rlhf_jax.types import Rollout as Rollout
    from rlhf_jax.types import Sampling as Sampling
    from rlhf_jax.types import TokenBatch as TokenBatch

__version__ = "0.1.0"

_NAMES = {
    "types": "Algorithm Model Models PairBatch PolicyBatch Rollout Sampling TokenBatch",
    "ops": "clipped_surrogate_loss clipped_value_loss fused_token_logps gae group_advantages "
    "kl_estimate kl_shaped_rewards leave_one_out_advantages loss_weights masked_mean "
    "masked_whiten overlong_penalty token_logps weighted_sum",
    "algorithms": "ALGORITHMS DAPOConfig DPOConfig GRPOConfig PPOConfig RewardModelConfig "
    "SFTConfig dapo_loss dpo_loss grpo_loss make_algorithm pairwise_reward_loss ppo_loss register "
    "sft_loss",
    "sharding": "make_mesh",
    "models": "ModelConfig init_model load_pretrained save_pretrained",
    "training": "OptimizerConfig TrainState make_optimizer make_optimizers make_score "
    "make_step make_train_state make_update_step",
    "rollout": "SamplingParams generate",
    "data": "DataConfig load_tokenizer make_loader make_prompt_loader",
    "config": "Config load_config make_config",
    "fused": "FusedConfig GenerationShape make_fused_fit make_fused_loop",
    "io": "read_metrics",
    "runs": "Completions LoadedModel RunResult complete evaluate load train",
}
_HOMES = {name: f"rlhf_jax.{home}" for home, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _NAMES:  # the packages themselves: `rlhf_jax.ops`
        return importlib.import_module(f"rlhf_jax.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'rlhf_jax' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_NAMES])
