"""A run's configuration: typed sections that hold the only defaults, and their strict reading from
YAML and overrides."""

from rlhf_jax.config.claims import (
    BoundConfig,
    ClaimConfig,
    ClaimsConfig,
    ComparisonSource,
    DifferenceConfig,
    MatchedKLConfig,
    MemoryConfig,
    SavingConfig,
    SetupConfig,
    SetupsConfig,
    load_claims,
    make_claims,
)
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
    "BoundConfig",
    "CheckpointConfig",
    "ClaimConfig",
    "ClaimsConfig",
    "CompareConfig",
    "ComparisonSource",
    "Config",
    "ConfigError",
    "DifferenceConfig",
    "EarlyStoppingConfig",
    "EvaluationConfig",
    "FieldDoc",
    "LoggingConfig",
    "MatchedKLConfig",
    "MeasureConfig",
    "MemoryConfig",
    "ModelSection",
    "SavingConfig",
    "SetupConfig",
    "SetupsConfig",
    "StageConfig",
    "TrainingConfig",
    "describe_section",
    "dump_config",
    "load_claims",
    "load_compare",
    "load_config",
    "make_claims",
    "make_compare",
    "make_config",
    "measure_config",
    "trained_vocab_size",
]
