"""The sections of a run's configuration. The only defaults stand in these dataclasses; YAML files hold differences.

Sections that describe a lower layer are defined there: `data` (`rlhf_jax.data`), `optimizer` (`rlhf_jax.training`), `mesh`
(`rlhf_jax.sharding`) and `algorithm` (one class per algorithm in `rlhf_jax.algorithms`, chosen by `algorithm.name`).
"""

import os
import pathlib
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from rlhf_jax.algorithms import ALGORITHMS, DPOConfig, algorithm_config
from rlhf_jax.config.document import read_document, render, settled
from rlhf_jax.config.fields import defaults, flat, plain
from rlhf_jax.data.config import DataConfig
from rlhf_jax.sharding import MeshConfig
from rlhf_jax.training import OptimizerConfig

RESUMABLE = (
    "run_dir",
    "mesh",
    "checkpoint",
    "logging",
    "data.num_proc",
    "training.eval_every",
    "training.eval_batch_size",
    "training.save_every",
    "training.log_every",
    "training.max_nonfinite",
)
"""Keys that may differ between a run and its continuation: they change what is written or where it runs, not what is learnt."""
MAX_SEED = 2**32 - 1
TRAINED_TOKENIZER = re.compile(r"bpe:([1-9][0-9]*)")


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """Which model starts the run, and how it computes."""

    path: str | None = None
    """Hugging Face folder or hub id of the starting weights; or give `config`."""
    config: dict[str, Any] | None = None
    """Keys of a Hugging Face config.json (model_type, hidden_size, ...) for a model with random weights; or give `path`."""
    reference: str | None = None
    """Folder or hub id of the frozen reference (DPO with a reference only); null: the starting weights."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype in which parameters are kept and updated."""
    compute_dtype: Literal["float32", "bfloat16"] | None = None
    """Dtype of weights and activations in matrix products; null: `dtype`. Losses and statistics are float32 always."""
    remat: Literal["none", "full", "dots", "dots_no_batch", "save_attention"] = "none"
    """What each layer keeps for the backward pass: none: everything is kept, nothing computed again; full: nothing is kept;
    dots: results of matrix products; dots_no_batch: those without a batch dimension; save_attention: attention's output."""
    layers: Literal["auto", "scan", "unroll"] = "auto"
    """Layers in a compiled loop or unrolled; auto: a loop when the model is deep."""
    attention: Literal["auto", "blocked", "dot_product", "xla"] = "auto"
    """Attention implementation; auto: the fastest one on this hardware."""

    def __post_init__(self) -> None:
        if self.path is not None and self.config is not None:
            raise ValueError(f"model.path={self.path!r} and model.config are both given; set one of them to null")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long to train, in which portions, and how often to look."""

    batch_size: int = 8
    """Rows (SFT) or pairs (reward model, DPO) per optimizer step, over all devices."""
    num_microbatches: int = 1
    """Parts into which a batch is split to save memory; the gradient is the same."""
    num_epochs: int = 1
    """Passes over the training data."""
    max_steps: int | None = None
    """Optimizer steps; when given, `num_epochs` is not used."""
    eval_every: int = 100
    """Steps between evaluations on the held-out split; 0: only before the first and after the last step."""
    eval_batch_size: int | None = None
    """Rows or pairs per evaluation batch; null: `batch_size`."""
    save_every: int = 100
    """Steps between checkpoints; 0: only after the last step."""
    log_every: int = 1
    """Steps between rows in metrics.jsonl."""
    max_nonfinite: int = 5
    """Updates in a row that may be skipped because the loss or a gradient is not finite, before the run stops."""

    def __post_init__(self) -> None:
        at_least = {"batch_size": 1, "num_microbatches": 1, "num_epochs": 1, "max_steps": 1, "eval_batch_size": 1, "log_every": 1}
        at_least |= {"eval_every": 0, "save_every": 0, "max_nonfinite": 0}
        for name, least in at_least.items():
            value = self.__dict__[name]
            if value is not None and value < least:
                raise ValueError(f"training.{name}={value} must be at least {least}")
        if self.batch_size % self.num_microbatches:
            raise ValueError(f"training.num_microbatches={self.num_microbatches} must divide batch_size={self.batch_size}")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Which checkpoints stay, and whether a run goes on from them."""

    keep_last: int = 2
    """Newest checkpoints to keep."""
    keep_best: int = 0
    """Checkpoints to keep beside them because their `best_metric` is best."""
    best_metric: str | None = None
    """Evaluation metric that decides, such as `rewards/accuracy` or (with `best_mode: min`) `loss/total`."""
    best_mode: Literal["max", "min"] = "max"
    """Whether a large or a small `best_metric` is good."""
    resume: Literal["auto", "never", "must"] = "auto"
    """auto: go on when run_dir holds this run; never: run_dir must be new; must: there has to be a checkpoint."""

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise ValueError(
                f"checkpoint.keep_last={self.keep_last} must be at least 1: the newest checkpoint is needed to resume"
            )
        if self.keep_best < 0:
            raise ValueError(f"checkpoint.keep_best={self.keep_best} must not be negative")
        if self.keep_best and self.best_metric is None:
            raise ValueError(f"checkpoint.keep_best={self.keep_best} needs best_metric, for example best_metric=rewards/accuracy")


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """Where metrics go besides metrics.jsonl and log.txt, which are always written."""

    tensorboard: bool = True
    """Write TensorBoard events to run_dir/tensorboard."""
    wandb: bool = False
    """Send metrics to Weights & Biases (install the extra `wandb`)."""
    wandb_project: str = "rlhf_jax"
    """Project of the W&B run."""
    wandb_name: str | None = None
    """Name of the W&B run; null: the name of run_dir."""
    plot: bool = True
    """Draw the metrics to run_dir/metrics.png at the end."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. Together with the data and the hardware it determines every bit of the result."""

    algorithm: Any
    """Configuration of the algorithm; in YAML `algorithm.name` chooses the class."""
    run_dir: str
    """Folder of the run: config.yaml, metrics.jsonl, log.txt, tensorboard/, checkpoints/, export/."""
    data: DataConfig
    seed: int = 0
    """Seed of initial weights, data order and every other draw."""
    tokenizer: str | None = None
    """null: the model folder's own; `byte`: built-in; `bpe:4096`: trained on the training text; or a folder or hub id."""
    model: ModelSection = field(default_factory=ModelSection)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def __post_init__(self) -> None:
        algorithm_name(self.algorithm)
        if not self.run_dir:
            raise ValueError("run_dir is empty; give the folder of the run, for example run_dir=runs/dpo")
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed={self.seed} must be from 0 to {MAX_SEED}")
        if self.model.path is None and self.model.config is None:
            raise ValueError(
                "model: give model.path (a Hugging Face folder or hub id) or model.config (a model with random weights)"
            )
        if self.model.path is None and self.tokenizer is None:
            raise ValueError(
                "tokenizer is null, but there is no model folder to take it from; give byte, bpe:4096, a folder or a hub id"
            )
        self._check_reference()
        self._check_best()

    def _check_reference(self) -> None:
        compared = isinstance(self.algorithm, DPOConfig) and self.algorithm.reference != "none"
        if self.model.reference is not None and not compared:
            raise ValueError(
                f"model.reference={self.model.reference!r} has no use in this run; "
                "leave it null, or choose algorithm.name=dpo with algorithm.reference=precomputed or online"
            )

    def _check_best(self) -> None:
        """What `keep_best` needs, so that checkpoints have been evaluated when they are saved."""
        if self.checkpoint.keep_best == 0:
            return
        best = f"checkpoint.keep_best={self.checkpoint.keep_best}"
        every, save = self.training.eval_every, self.training.save_every
        if not self.data.has_eval:
            raise ValueError(f"{best} needs held-out data: give data.eval_path, eval_split, eval_fraction or eval_size")
        if save > 0 and every == 0:
            raise ValueError(f"{best} needs evaluations: training.eval_every=0 must be at least 1, or training.save_every 0")
        if save > 0 and save % every:
            raise ValueError(f"{best} needs training.save_every={save} to be a multiple of training.eval_every={every}")

    def to_tree(self) -> dict[str, Any]:
        """Nested dicts, lists and scalars, every default written out, `algorithm.name` included."""
        tree = plain(self)
        return tree | {"algorithm": {"name": algorithm_name(self.algorithm), **tree["algorithm"]}}

    def to_yaml(self) -> str:
        """The complete configuration as YAML; `load_config` reads it back equal."""
        return render(self.to_tree())

    def changes_since(self, path: str | os.PathLike[str]) -> list[str]:
        """What this configuration would learn differently from the run that wrote a file.

        Args:
            path: config.yaml of a run folder.

        Returns:
            `key: old -> new` for every difference outside `RESUMABLE`; empty when the run can go on.

        Raises:
            ConfigError: the file cannot be read.
        """
        old, new = flat(settled(read_document(pathlib.Path(path)).tree)), flat(self.to_tree())
        unsaid = defaults(type(self)) | defaults(type(self.algorithm), "algorithm.")  # keys that came after the file was written
        old |= {key: unsaid[key] for key in new.keys() - old.keys() if key in unsaid}
        return [
            f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
            for key in sorted(old.keys() | new.keys())
            if repr(old.get(key)) != repr(new.get(key))
            and not any(key == free or key.startswith(free + ".") for free in RESUMABLE)
        ]


def algorithm_name(config: Any) -> str:
    """The registered name of an algorithm's configuration.

    Args:
        config: an instance of one of the configuration classes in `rlhf_jax.algorithms`.

    Returns:
        The key in `rlhf_jax.algorithms.ALGORITHMS`.

    Raises:
        ValueError: no registered algorithm has this class.
    """
    for name in ALGORITHMS:
        if type(config) is algorithm_config(name):
            return name
    known = ", ".join(algorithm_config(name).__name__ for name in ALGORITHMS)
    raise ValueError(f"algorithm: {type(config).__name__} is not the configuration of an algorithm; known: {known}")


def trained_vocab_size(tokenizer: str | None) -> int | None:
    """Vocabulary size in `bpe:SIZE`, or None when the tokenizer is not one to be trained."""
    match = TRAINED_TOKENIZER.fullmatch(tokenizer or "")
    return int(match[1]) if match else None
