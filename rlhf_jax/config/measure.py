"""How answers to held-out prompts are measured: sections of a run, and no algorithm."""

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

from rlhf_jax.checked import checked
from rlhf_jax.config.errors import ConfigError
from rlhf_jax.config.graded import check_judges, check_rewards, check_whole_distribution
from rlhf_jax.config.schema import Config
from rlhf_jax.config.sections import EvaluationConfig, ModelSection, TrainingConfig
from rlhf_jax.data.config import DataConfig
from rlhf_jax.rewards.config import PoolConfig, RewardConfig
from rlhf_jax.rollout.config import RolloutConfig
from rlhf_jax.sharding import MeshConfig


@checked
@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """A measurement. Every section means what it means in a run."""

    is_online: ClassVar[bool] = True
    """Its data are prompts."""

    data: DataConfig
    seed: int = 0
    """Of the samples."""
    tokenizer: str | None = None
    model: ModelSection = field(default_factory=ModelSection)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    rewards: tuple[RewardConfig, ...] = ()
    reward_pool: PoolConfig = field(default_factory=PoolConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Prompts at a time: `eval_batch_size`, else `batch_size`."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        if not self.rewards:
            raise ValueError("rewards is empty: nothing says what an answer is worth")
        check_rewards(self.rewards)
        check_judges("evaluation.accuracy_reward", self.evaluation.accuracy_reward, self.rewards)
        check_whole_distribution(self.evaluation, self.rollout)


_OF_TRAINING = (
    "shuffle num_proc packing length_window num_buckets pad_multiple buckets max_length "
    "max_prompt_len train_on append_eos"
).split()
"""Keys of `data` that no held-out prompt depends on."""
_OF_ROWS = "path split subset data_dir max_examples eval_fraction eval_size eval_seed".split()
"""Those that it does not depend on either where `eval_path` names other rows."""


def check_judged_alike(name: str, config: Config, measuring: MeasureConfig) -> None:
    """Refuses a run that measures itself in another way than those that it is compared with.

    Args:
        name: of the run.
        config: of the run; one that samples nothing does not measure itself.
        measuring: how the others are measured.

    Raises:
        ConfigError: with the key.
    """
    if not config.is_online:
        return
    apart = [*_OF_TRAINING, *(() if measuring.data.eval_path is None else _OF_ROWS)]
    for section, keys in (
        ("data", [key for key in vars(measuring.data) if key not in apart]),
        ("evaluation", list(vars(measuring.evaluation))),
        ("rollout", ["max_prompt_len", "max_new_tokens"]),
    ):
        own = vars(vars(config)[section])
        others = vars(vars(measuring)[section])
        for key in keys:
            if own[key] != others[key]:
                raise ConfigError(
                    f"{name}: with {section}.{key}={own[key]!r} this run would be measured "
                    f"otherwise than the others ({others[key]!r}); give it in common or prompts, "
                    "for all"
                )
    graded = [dataclasses.replace(reward, weight=1.0) for reward in config.rewards]
    for reward in measuring.rewards:
        if dataclasses.replace(reward, weight=1.0) not in graded:
            raise ConfigError(
                f"{name}: its rewards lack {reward.label}, by which the others are measured; "
                "add it with weight 0"
            )


def measure_config(config: Config) -> MeasureConfig:
    """What a run measures at its evaluations: its temperature and its judge are settled.

    Args:
        config: an online run.
    """
    sampling = config.algorithm.sampling
    evaluation = config.evaluation
    settled = EvaluationConfig(
        samples=evaluation.samples,
        max_prompts=evaluation.max_prompts,
        temperature=evaluation.temperature or sampling.temperature,
        top_p=evaluation.top_p,
        accuracy_reward=evaluation.accuracy_reward or sampling.accuracy_reward,
        reference=evaluation.reference,
    )
    return MeasureConfig(
        data=config.data,
        seed=config.seed,
        tokenizer=config.tokenizer,
        model=config.model,
        rollout=config.rollout,
        rewards=config.rewards,
        reward_pool=config.reward_pool,
        training=config.training,
        mesh=config.mesh,
        evaluation=settled,
    )
