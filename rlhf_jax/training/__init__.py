"""Train state, optimizers, and the step of training."""

from rlhf_jax.training.counts import schedule_count, with_updates
from rlhf_jax.training.epochs import make_epochs
from rlhf_jax.training.movement import MovementCheck
from rlhf_jax.training.optim import (
    DEFAULT_LEARNING_RATE,
    OptimizerConfig,
    make_optimizer,
    make_optimizers,
    make_rate,
    make_schedule,
    peak_rate,
    warmup_length,
)
from rlhf_jax.training.state import (
    TrainState,
    abstract_sharded_state,
    make_sharded_state,
    make_train_state,
)
from rlhf_jax.training.step import Assemble, make_score, make_step, union
from rlhf_jax.training.update import (
    UpdateStep,
    check_rows,
    make_update_step,
    reduce_metrics,
    split_microbatches,
)

__all__ = [
    "DEFAULT_LEARNING_RATE",
    "Assemble",
    "MovementCheck",
    "OptimizerConfig",
    "TrainState",
    "UpdateStep",
    "abstract_sharded_state",
    "check_rows",
    "make_epochs",
    "make_optimizer",
    "make_optimizers",
    "make_rate",
    "make_schedule",
    "make_score",
    "make_sharded_state",
    "make_step",
    "make_train_state",
    "make_update_step",
    "peak_rate",
    "reduce_metrics",
    "schedule_count",
    "split_microbatches",
    "union",
    "warmup_length",
    "with_updates",
]
