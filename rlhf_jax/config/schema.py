"""A whole run's configuration. The only defaults stand in its dataclasses; YAML files hold
differences.

Sections that describe a lower layer are defined there: `data`, `optimizer` (`rlhf_jax.training`),
`mesh` and `distributed` (`sharding`), `rollout`, `rewards` and `reward_pool`, and `algorithm` (a
class per algorithm, chosen by `algorithm.name`); the others in `rlhf_jax.config.sections`.
"""

import dataclasses
import os
import pathlib
import re
from dataclasses import dataclass, field
from typing import Any

from rlhf_jax.algorithms import (
    ALGORITHMS,
    algorithm_config,
    algorithm_name,
    default_learning_rate,
)
from rlhf_jax.checked import check_types, checked
from rlhf_jax.config.document import read_document, render, settled
from rlhf_jax.config.graded import (
    check_judges,
    check_rewards,
    check_right_and_wrong,
    check_whole_distribution,
)
from rlhf_jax.config.sections import (
    CheckpointConfig,
    EvaluationConfig,
    LoggingConfig,
    ModelSection,
    TrainingConfig,
)
from rlhf_jax.data.config import DataConfig
from rlhf_jax.fields import defaults, flat, plain
from rlhf_jax.rewards.config import PoolConfig, RewardConfig
from rlhf_jax.rollout.config import RolloutConfig
from rlhf_jax.sharding import DistributedConfig, MeshConfig
from rlhf_jax.training import DEFAULT_LEARNING_RATE, OptimizerConfig
from rlhf_jax.types import Models, Sampling

RESUMABLE = (
    "run_dir",
    "mesh",
    "distributed",
    "model.remat",
    "checkpoint",
    "logging",
    "evaluation",
    "reward_pool",
    *(f"rollout.{name}" for name in ("slots", "chunk", "mesh", "record")),
    "data.num_proc",
    "training.eval_every",
    "training.eval_batch_size",
    "training.save_every",
    "training.save_before",
    "training.log_every",
    "training.max_nonfinite",
    "training.compilation_cache",
    "training.early_stopping",
)
"""Keys that may differ between a run and its continuation: they change what is written or where it
runs, not what is learnt; or they are the way on from a batch that dynamic sampling cannot fill. The
number of steps may grow too, which the loops judge in steps. So may fields of an algorithm whose
metadata says "resumable"."""

MAX_SEED = 2**32 - 1
_ONLINE_SECTIONS = {
    "rollout": RolloutConfig(),
    "rewards": (),
    "reward_pool": PoolConfig(),
    "evaluation": EvaluationConfig(),
}


@checked
@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. Together with the data and the hardware it determines every bit of the
    result."""

    algorithm: Any
    """Configuration of the algorithm; in YAML `algorithm.name` chooses the class."""
    run_dir: str
    """Folder of the run: config.yaml, metrics.jsonl, log.txt, tensorboard/, checkpoints/, export/;
    or of a bucket, gs://BUCKET/PATH or s3://BUCKET/PATH (extras gcs, s3; configs/launch)."""
    data: DataConfig
    seed: int = 0
    """Seed of initial weights, data order and every other draw."""
    tokenizer: str | None = None
    """null: the model folder's own; `byte`: built-in; `bpe:4096`: trained on the training text; or
    a folder or hub id. One that a program hands over stands here as "<tokenizer 3fa2b1c9>"."""
    model: ModelSection = field(default_factory=ModelSection)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    rewards: tuple[RewardConfig, ...] = ()
    """What completions are scored by, added up by weight; the online algorithms (PPO, GRPO, DAPO)
    need at least one."""
    reward_pool: PoolConfig = field(default_factory=PoolConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def __post_init__(self) -> None:
        algorithm_name(self.algorithm)
        check_types(self.algorithm)  # of a user's own, which need not be `checked`
        # settled here, so that a run's config.yaml says what it used
        if self.optimizer.learning_rate is None:
            rate = default_learning_rate(type(self.algorithm))
            rate = DEFAULT_LEARNING_RATE if rate is None else rate
            object.__setattr__(
                self, "optimizer", dataclasses.replace(self.optimizer, learning_rate=rate)
            )
            object.__setattr__(self, "algorithm", with_default_rates(self.algorithm))
        if not self.run_dir:
            raise ValueError(
                "run_dir is empty; give the folder of the run, for example run_dir=runs/dpo"
            )
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed={self.seed} must be from 0 to {MAX_SEED}")
        if self.model.path is None and self.model.config is None and not self.model.given:
            raise ValueError(
                "model: give model.path (a Hugging Face folder or hub id) or model.config (a model "
                "with random weights)"
            )
        if self.model.path is None and self.tokenizer is None:
            raise ValueError(
                "tokenizer is null, but there is no model folder to take it from; give byte, "
                "bpe:4096, a folder or a hub id"
            )
        if self.is_online:
            self._check_online()
        else:
            self._check_offline()
        self._check_packing()
        self._check_reference()
        self._check_further_trees()
        self._check_best()

    @property
    def is_online(self) -> bool:
        """Whether the algorithm samples its own completions (PPO, GRPO, DAPO)."""
        return bool(self.algorithm.data == "prompts")

    @property
    def resolved_algorithm(self) -> Any:
        """The algorithm's configuration, with what it takes from other sections filled in
        (metadata "inherits"); `config.yaml` keeps null."""
        values = {}
        for option in dataclasses.fields(self.algorithm):
            source = option.metadata.get("inherits")
            if source is not None and vars(self.algorithm)[option.name] is None:
                section, key = source.split(".")
                values[option.name] = vars(vars(self)[section])[key]
        return dataclasses.replace(self.algorithm, **values)

    def _check_packing(self) -> None:
        training = self.training
        if self.data.packing and self.algorithm.data == "text":
            for name in ("pack", "max_tokens_per_row"):
                if getattr(training, name):
                    raise ValueError(
                        f"training.{name}={getattr(training, name)} packs the rows of a batch, "
                        "which hold several documents each with data.packing=true: leave one of "
                        "them out"
                    )
        elif training.max_tokens_per_row and training.pack is False:
            raise ValueError(
                f"training.max_tokens_per_row={training.max_tokens_per_row} is the width of packed "
                "rows, and training.pack=false packs none: leave one of them out"
            )

    def _check_online(self) -> None:
        name = algorithm_name(self.algorithm)
        sampling: Sampling = self.algorithm.sampling
        if sampling.rewarded and not self.rewards:
            raise ValueError(
                f"rewards is empty, but algorithm.name={name} learns from rewards; "
                "give at least one, for example rewards=[{function: math}]"
            )
        check_rewards(self.rewards)
        check_judges("algorithm.accuracy_reward", sampling.accuracy_reward, self.rewards)
        if sampling.retire_pass_rate is not None:
            check_right_and_wrong(sampling.accuracy_reward, self.rewards)
        check_judges("evaluation.accuracy_reward", self.evaluation.accuracy_reward, self.rewards)
        check_whole_distribution(self.evaluation, self.rollout)
        if sampling.group_size < sampling.least_group:
            raise ValueError(
                f"algorithm.group_size={sampling.group_size} compares nothing: advantages are "
                f"within a group, so it must be at least {sampling.least_group}"
            )
        if self.data.max_prompt_len is not None:
            raise ValueError(
                f"data.max_prompt_len={self.data.max_prompt_len} is for the offline algorithms; "
                "set rollout.max_prompt_len"
            )

    def _check_offline(self) -> None:
        name = algorithm_name(self.algorithm)
        # they end answers here too
        stops_only = dataclasses.replace(self.rollout, stop=())
        for section, default in _ONLINE_SECTIONS.items():
            if (stops_only if section == "rollout" else self.__dict__[section]) != default:
                online = [each for each in ALGORITHMS if _samples(each)]
                raise ValueError(
                    f"{section} is given, but algorithm.name={name} samples no completions; "
                    f"remove the section, or choose {', '.join(online[:-1])} or {online[-1]}"
                )
        count = self.training.num_microbatches
        size = self.training.batch_size
        if count != "auto" and size % count:
            raise ValueError(f"training.num_microbatches={count} must divide batch_size={size}")

    def _check_reference(self) -> None:
        models: Models = self.algorithm.models
        if self.model.reference is not None and models.reference == "none":
            raise ValueError(
                f"model.reference={self.model.reference!r} has no use in this run; leave it "
                "null, or choose algorithm.name=dpo "
                "with algorithm.reference=precomputed or online, or ppo or grpo with "
                "algorithm.kl_coef above 0"
            )
        if models.own_reference and self.model.reference is None:
            raise ValueError(
                f"model.reference is null, but algorithm.name={algorithm_name(self.algorithm)} "
                "learns from another model: give its folder or hub id"
            )

    def _check_further_trees(self) -> None:
        further = [role for role in self.algorithm.models.trained if role != "policy"]
        if self.model.critic is not None and not further:
            raise ValueError(
                f"model.critic={self.model.critic!r} has no use in this run; "
                "leave it null, or choose algorithm.name=ppo with algorithm.critic=separate"
            )

    def _check_best(self) -> None:
        """What `keep_best` needs, so that checkpoints have been evaluated when they are saved."""
        if self.checkpoint.keep_best == 0:
            return
        best = f"checkpoint.keep_best={self.checkpoint.keep_best}"
        every = self.training.eval_every
        save = self.training.save_every
        if not self.data.has_eval:
            raise ValueError(
                f"{best} needs held-out data: give data.eval_path, eval_split, eval_fraction or "
                "eval_size"
            )
        if save > 0 and every == 0:
            raise ValueError(
                f"{best} needs evaluations: training.eval_every=0 must be at least 1, or "
                "training.save_every 0"
            )
        if save > 0 and save % every:
            raise ValueError(
                f"{best} needs training.save_every={save} to be a multiple of "
                f"training.eval_every={every}"
            )

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
            `key: old -> new` for every difference outside `RESUMABLE`; empty when the run can go
              on.

        Raises:
            ConfigError: the file cannot be read.
        """
        resumable = [
            f"algorithm.{option.name}"
            for option in dataclasses.fields(self.algorithm)
            if option.metadata.get("resumable")
        ]
        marks = tuple(f"{free}{mark}" for free in (*RESUMABLE, *resumable) for mark in ":.")
        return [change for change in self.differences_from(path) if not change.startswith(marks)]

    def differences_from(self, path: str | os.PathLike[str]) -> list[str]:
        """Every difference, as `key: old -> new`, to the configuration in a file.

        Args:
            path: config.yaml of a run folder.

        Raises:
            ConfigError: the file cannot be read.
        """
        old = flat(settled(read_document(pathlib.Path(path)).tree))
        new = flat(self.to_tree())
        # keys that came after the file was written
        unsaid = defaults(type(self)) | defaults(type(self.algorithm), "algorithm.")
        old |= {
            key: unsaid[kind]
            for key in new.keys() - old.keys()
            if (kind := re.sub(r"\[\d+\]", "[]", key)) in unsaid
        }
        return [
            f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
            for key in sorted(old.keys() | new.keys())
            if repr(old.get(key)) != repr(new.get(key))
        ]


def with_default_rates(algorithm: Any) -> Any:
    """An algorithm's configuration with the learning rates of trees beside the policy (metadata
    "rate_of"), where none is given and the policy's is the default too."""
    rates = {}
    for option in dataclasses.fields(algorithm):
        role, rate = option.metadata.get("rate_of", (None, None))
        if role in algorithm.models.trained and vars(algorithm)[option.name] is None:
            rates[option.name] = rate
    return dataclasses.replace(algorithm, **rates)


def _samples(name: str) -> bool:
    """Whether a registered algorithm samples its own completions."""
    chosen: Any = algorithm_config(name)
    return bool(chosen.data == "prompts")
