"""How answers to held-out prompts are measured: sections of a run, and no algorithm."""

from dataclasses import dataclass, field
from typing import ClassVar

from rlhf_jax.checked import checked
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
