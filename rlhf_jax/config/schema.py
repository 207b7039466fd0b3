"""A whole run's configuration. The only defaults stand in its dataclasses; YAML files hold
differences.

Sections that describe a lower layer are defined there: `data` (`rlhf_jax.data`), `optimizer`
(`rlhf_jax.training`), `mesh` (`rlhf_jax.sharding`), `rollout` (`rlhf_jax.rollout`), `rewards` and
`reward_pool` (`rlhf_jax.rewards`), and `algorithm` (one class per algorithm in
`rlhf_jax.algorithms`, chosen by `algorithm.name`); the others in `rlhf_jax.config.sections`.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_jax.algorithms import (
    ALGORITHMS,
    DAPOConfig,
    DPOConfig,
    GRPOConfig,
    PPOConfig,
    algorithm_config,
    default_learning_rate,
)
from rlhf_jax.config.document import read_document, render, settled
from rlhf_jax.config.errors import did_you_mean
from rlhf_jax.config.fields import defaults, flat, plain
from rlhf_jax.config.sections import (
    CheckpointConfig,
    EvaluationConfig,
    LoggingConfig,
    ModelSection,
    TrainingConfig,
)
from rlhf_jax.data.config import DataConfig
from rlhf_jax.rewards.config import PoolConfig, RewardConfig
from rlhf_jax.rollout.config import RolloutConfig
from rlhf_jax.sharding import MeshConfig
from rlhf_jax.training import DEFAULT_LEARNING_RATE, OptimizerConfig

RESUMABLE = (
    "run_dir",
    "mesh",
    "checkpoint",
    "logging",
    "evaluation",
    "reward_pool",
    "rollout.slots",
    "rollout.chunk",
    "rollout.mesh",
    "data.num_proc",
    "training.eval_every",
    "training.eval_batch_size",
    "training.save_every",
    "training.log_every",
    "training.max_nonfinite",
    "algorithm.max_generation_batches",
    "algorithm.on_cap",
    "algorithm.dynamic_sampling",
)
"""Keys that may differ between a run and its continuation: they change what is written or where it
runs, not what is learnt; or they are the way on from a batch that dynamic sampling cannot fill. The
number of steps may grow too, which the loops judge in steps."""
TAKEN_LABELS = frozenset(
    "mean std ungraded group_std zero_std_groups overlong_penalty greedy sampled chosen rejected "
    "margin accuracy failed "
    "ungraded_sampled failed_sampled step split sample kept trained_step generation_batch "
    "reward prompt completion prompt_index tokens truncated".split()
)
"""Names that a reward cannot have: metrics `rewards/NAME` and columns of the completion files."""
MAX_SEED = 2**32 - 1
_ONLINE_SECTIONS = {
    "rollout": RolloutConfig(),
    "rewards": (),
    "reward_pool": PoolConfig(),
    "evaluation": EvaluationConfig(),
}
TRAINED_TOKENIZER = re.compile(r"bpe:([1-9][0-9]*)")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. Together with the data and the hardware it determines every bit of the
    result."""

    algorithm: Any
    """Configuration of the algorithm; in YAML `algorithm.name` chooses the class."""
    run_dir: str
    """Folder of the run: config.yaml, metrics.jsonl, log.txt, tensorboard/, checkpoints/,
    export/."""
    data: DataConfig
    seed: int = 0
    """Seed of initial weights, data order and every other draw."""
    tokenizer: str | None = None
    """null: the model folder's own; `byte`: built-in; `bpe:4096`: trained on the training text; or
    a folder or hub id."""
    model: ModelSection = field(default_factory=ModelSection)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    rewards: tuple[RewardConfig, ...] = ()
    """What completions are scored by, added up by weight; the online algorithms (PPO, GRPO, DAPO)
    need at least one."""
    reward_pool: PoolConfig = field(default_factory=PoolConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def __post_init__(self) -> None:
        algorithm_name(self.algorithm)
        # settled here, so that a run's config.yaml says what it used
        if self.optimizer.learning_rate is None:
            rate = default_learning_rate(type(self.algorithm))
            rate = DEFAULT_LEARNING_RATE if rate is None else rate
            object.__setattr__(
                self, "optimizer", dataclasses.replace(self.optimizer, learning_rate=rate)
            )
            if isinstance(self.algorithm, PPOConfig):
                object.__setattr__(self, "algorithm", with_critic_rate(self.algorithm))
        if not self.run_dir:
            raise ValueError(
                "run_dir is empty; give the folder of the run, for example run_dir=runs/dpo"
            )
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed={self.seed} must be from 0 to {MAX_SEED}")
        if self.model.path is None and self.model.config is None:
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
        self._check_reference()
        self._check_critic()
        self._check_best()

    @property
    def is_online(self) -> bool:
        """Whether the algorithm samples its own completions (PPO, GRPO, DAPO)."""
        return self.algorithm.data == "prompts"

    def _check_online(self) -> None:
        if not self.rewards:
            raise ValueError(
                f"rewards is empty, but algorithm.name={algorithm_name(self.algorithm)} learns "
                "from rewards; "
                "give at least one, for example rewards=[{function: math}]"
            )
        labels = [reward.label for reward in self.rewards]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise ValueError(
                f"rewards: {twice!r} names two of them; give each its own name, for example "
                f"name={twice}_2"
            )
        if isinstance(self.algorithm, DAPOConfig):
            check_judges("algorithm.accuracy_reward", self.algorithm.accuracy_reward, self.rewards)
        check_judges("evaluation.accuracy_reward", self.evaluation.accuracy_reward, self.rewards)
        taken = next((label for label in labels if label in TAKEN_LABELS), None)
        if taken is not None:
            raise ValueError(
                f"rewards: the name {taken!r} is taken by a metric or column; give another one "
                "with name="
            )
        if self.algorithm.group_size == 1 and not isinstance(self.algorithm, PPOConfig):
            raise ValueError(
                "algorithm.group_size=1 compares nothing: advantages are within a group, so it "
                "must be at least 2"
            )
        if self.data.max_prompt_len is not None:
            raise ValueError(
                f"data.max_prompt_len={self.data.max_prompt_len} is for the offline algorithms; "
                "set rollout.max_prompt_len"
            )

    def _check_offline(self) -> None:
        name = algorithm_name(self.algorithm)
        stops_only = dataclasses.replace(self.rollout, stop=())  # they end answers here too
        for section, default in _ONLINE_SECTIONS.items():
            if (stops_only if section == "rollout" else self.__dict__[section]) != default:
                raise ValueError(
                    f"{section} is given, but algorithm.name={name} samples no completions; "
                    "remove the section, or choose ppo, grpo or dapo"
                )
        if self.training.batch_size % self.training.num_microbatches:
            raise ValueError(
                f"training.num_microbatches={self.training.num_microbatches} must divide "
                f"batch_size={self.training.batch_size}"
            )

    def _check_reference(self) -> None:
        algorithm = self.algorithm
        compared = isinstance(algorithm, DPOConfig) and algorithm.reference != "none"
        penalised = isinstance(algorithm, PPOConfig | GRPOConfig) and algorithm.kl_coef > 0
        if self.model.reference is not None and not (compared or penalised):
            raise ValueError(
                f"model.reference={self.model.reference!r} has no use in this run; leave it null, "
                "or choose algorithm.name=dpo "
                "with algorithm.reference=precomputed or online, or ppo or grpo with "
                "algorithm.kl_coef above 0"
            )

    def _check_critic(self) -> None:
        is_separate = isinstance(self.algorithm, PPOConfig) and self.algorithm.critic == "separate"
        if self.model.critic is not None and not is_separate:
            raise ValueError(
                f"model.critic={self.model.critic!r} has no use in this run; "
                "leave it null, or choose algorithm.name=ppo with algorithm.critic=separate"
            )

    def _check_best(self) -> None:
        """What `keep_best` needs, so that checkpoints have been evaluated when they are saved."""
        if self.checkpoint.keep_best == 0:
            return
        best = f"checkpoint.keep_best={self.checkpoint.keep_best}"
        every, save = self.training.eval_every, self.training.save_every
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
        return [
            change
            for change in self.differences_from(path)
            if not any(change.startswith((f"{free}:", f"{free}.")) for free in RESUMABLE)
        ]

    def differences_from(self, path: str | os.PathLike[str]) -> list[str]:
        """Every difference, as `key: old -> new`, to the configuration in a file.

        Args:
            path: config.yaml of a run folder.

        Raises:
            ConfigError: the file cannot be read.
        """
        old, new = flat(settled(read_document(pathlib.Path(path)).tree)), flat(self.to_tree())
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


def with_critic_rate(algorithm: PPOConfig) -> PPOConfig:
    """PPO with the learning rate of a critic of its own, where none is given and the policy's is
    the default too."""
    if algorithm.critic != "separate" or algorithm.critic_learning_rate is not None:
        return algorithm
    return dataclasses.replace(
        algorithm, critic_learning_rate=algorithm.default_critic_learning_rate
    )


def check_judges(
    key: str, named: str | Sequence[str] | None, rewards: Sequence[RewardConfig]
) -> None:
    """Refuses names of rewards that say right or wrong which are no rewards, stand twice, or cannot
    say it.

    Args:
        key: where they stand, for the error.
        named: one name, several, or None.
        rewards: all of the run.

    Raises:
        ValueError: in one line.
    """
    names = [named] if isinstance(named, str) else list(named or ())
    labels = {reward.label: reward for reward in rewards}
    if named is not None and not names:
        raise ValueError(
            f"{key}=[] names nothing; leave it null, or name one of {', '.join(labels)}"
        )
    for name in names:
        if name not in labels:
            raise ValueError(
                f"{key}={name!r} is not among the rewards, which are "
                f"{', '.join(labels)}{did_you_mean(name, labels)}"
            )
        if names.count(name) > 1:
            raise ValueError(f"{key}: {name!r} stands there twice")
        if labels[name].function == "model" and len(names) > 1:
            raise ValueError(
                f"{key}: {name!r} is a reward model, which grades everything: name it alone, or "
                "leave it out"
            )


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
    raise ValueError(
        f"algorithm: {type(config).__name__} is not the configuration of an algorithm; known: "
        f"{known}"
    )


def trained_vocab_size(tokenizer: str | None) -> int | None:
    """Vocabulary size in `bpe:SIZE`, or None when the tokenizer is not one to be trained."""
    match = TRAINED_TOKENIZER.fullmatch(tokenizer or "")
    return int(match[1]) if match else None
