"""What makes a comparison fair: own samples of the start, and learning rates tuned on other
seeds."""

from dataclasses import dataclass
from typing import Any

from rlhf_jax.checked import checked


@checked
@dataclass(frozen=True, kw_only=True)
class DrawConfig:
    """Samples of the start on training prompts, graded by the rewards of the comparison."""

    prompts: int
    """The first ones of the training split."""
    samples: int = 8
    """Completions of each."""
    max_new_tokens: int | None = None
    """Length limit; null: that of `prompts.rollout`."""
    temperature: float = 1.0
    """Of sampling."""

    def __post_init__(self) -> None:
        if self.prompts < 1:
            raise ValueError(f"prompts={self.prompts} must be at least 1")
        if self.samples < 2:
            raise ValueError(
                f"samples={self.samples} must be at least 2: a pair needs a right and a wrong one"
            )
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} must be at least 1")
        if self.temperature <= 0:
            raise ValueError(
                f"temperature={self.temperature} must be above 0: greedy samples are all the same"
            )


@checked
@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """One option of some runs, chosen on seeds that are not reported."""

    values: tuple[Any, ...]
    """Tried for each run, which is then measured at its end only; the one with the best mean is
    taken, of equal ones the first."""
    seeds: tuple[int, ...]
    """Every value is tried with each of these; they must differ from those of the comparison."""
    runs: tuple[str, ...]
    """Names of the runs that are tuned."""
    key: str = "optimizer.learning_rate"
    """Of a run's configuration."""
    metric: str | None = None
    """Of the held-out evaluation, whose highest mean decides; null: the one that is compared. Where
    a learned judge trains, it is honest to choose by what the judge says
    (rewards/NAME_sampled): who has nothing better knows nothing else."""

    def __post_init__(self) -> None:
        for name in ("values", "seeds", "runs"):
            given = getattr(self, name)
            if not given or len({repr(one) for one in given}) < len(given):
                raise ValueError(f"{name}={list(given)} must be at least one, and all different")
