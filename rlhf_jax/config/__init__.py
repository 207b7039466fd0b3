"""A run's configuration: typed sections that hold the only defaults, and their strict reading from
YAML and overrides."""

from rlhf_jax.config.compare import CompareConfig, StageConfig, load_compare, make_compare
from rlhf_jax.config.errors import ConfigError
from rlhf_jax.config.load import dump_config, load_config, make_config
from rlhf_jax.config.measure import MeasureConfig, measure_config
from rlhf_jax.config.schema import Config
from rlhf_jax.config.sections import (
    CheckpointConfig,
    EarlyStoppingConfig,
    EvaluationConfig,
    LoggingConfig,
    ModelSection,
    TrainingConfig,
    trained_vocab_size,
)
from rlhf_jax.fields import FieldDoc, describe_section

__all__ = [
    "CheckpointConfig",
    "CompareConfig",
    "Config",
    "ConfigError",
    "EarlyStoppingConfig",
    "EvaluationConfig",
    "FieldDoc",
    "LoggingConfig",
    "MeasureConfig",
    "ModelSection",
    "StageConfig",
    "TrainingConfig",
    "describe_section",
    "dump_config",
    "load_compare",
    "load_config",
    "make_compare",
    "make_config",
    "measure_config",
    "trained_vocab_size",
]
