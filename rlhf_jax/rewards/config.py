"""Options of reward functions and of the processes that run them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """One reward function and its share of the total."""

    function: str
    """A built-in ("math", "exact_match", "think_format", "format", "length", "repetition", "overlong", "code", "countdown";
    their options are the keywords of `rlhf_jax.rewards.REWARDS[name]`), a function of an installed module
    ("package.module:function") or of a Python file ("path/to/file.py:function"). Such a function has TRL's signature:
    f(prompts, completions, completion_ids=None, **columns) -> list of float or None, sync or async. One that takes neither
    prompts nor completions is called with the options and returns the reward function."""
    weight: float = 1.0
    """Factor in the total; 0: only logged."""
    name: str | None = None
    """Name in metrics and logs; null: the function's own name."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Keyword arguments for the function."""
    batched: bool = False
    """Call the function once with the whole batch (one that compares completions with each other). A failure then spoils the
    whole batch, and the time limit is that of the whole call. False: every completion is graded by a call of its own."""

    def __post_init__(self) -> None:
        if not self.function:
            raise ValueError("rewards.function is empty: give a built-in name, 'module:function' or 'file.py:function'")
        if not math.isfinite(self.weight):
            raise ValueError(f"rewards.weight {self.weight} of {self.function!r} is not a finite number")
        if self.name is not None and not self.name.strip():
            raise ValueError(f"rewards.name of {self.function!r} is empty: leave it out or give a name")

    @property
    def label(self) -> str:
        """Name in metrics and logs."""
        return self.name if self.name is not None else self.function.rpartition(":")[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Processes that run graders which may hang or crash."""

    workers: int = 2
    """Processes. Built-ins that cannot hang run in the main process and need none."""
    timeout: float = 10.0
    """Seconds per completion. A grader that takes longer is killed, its completion counts as not graded."""
    max_tasks: int = 5000
    """Completions after which a process is replaced, which bounds what leaky graders keep."""
    memory_gb: float = 8.0
    """Memory that one process may allocate; beyond it a grader fails with MemoryError. Kept on Linux only."""

    preload: bool = True
    """Import the functions' modules once and fork the processes from there: they start, and are replaced, in milliseconds.
    False: import them in every process anew (for modules that start threads when imported)."""

    def __post_init__(self) -> None:
        for field, least in (("workers", 1), ("max_tasks", 1)):
            if self.__dict__[field] < least:
                raise ValueError(f"reward_pool.{field} {self.__dict__[field]} must be at least {least}")
        for field in ("timeout", "memory_gb"):
            if not (self.__dict__[field] > 0 and math.isfinite(self.__dict__[field])):
                raise ValueError(f"reward_pool.{field} {self.__dict__[field]} must be a positive number")
