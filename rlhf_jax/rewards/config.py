"""Options of reward functions and of the processes that run them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from rlhf_jax.checked import checked


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """One reward function and its share of the total."""

    function: str
    """A built-in ("math", "exact_match", "think_format", "format", "length", "repetition",
    "overlong", "code", "countdown", "programs", "safety", "harmful"; their options are the keywords
    of `rlhf_jax.rewards.REWARDS[name]`), a function of an installed module
    ("package.module:function") or of a Python file ("path/to/file.py:function"). Such a function
    has TRL's signature: f(prompts, completions, completion_ids=None, **columns) -> list of float or
    None, sync or async, and gets `trainer_state`, `log_extra` and `log_metric` where it names them
    or takes ``**kwargs``; or it has verl's, f(data_source, solution_str, ground_truth, extra_info).
    One that takes neither prompts nor completions is called with the options and returns the reward
    function. A configuration is code: what it names is run. A function that a program hands over,
    `rlhf_jax.train(..., rewards=[f])`, stands here as "<callable f>": it is called in that program,
    without sandbox and time limit."""
    weight: float = 1.0
    """Factor in the total; 0: only logged."""
    name: str | None = None
    """Name in metrics and logs; null: the function's own name."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Keyword arguments for the function. `timeout` of math and format (default 2) is in seconds of
    processor time: an answer that needs more, or more memory than reward_pool.memory_gb, is wrong
    (0)."""
    batched: bool | None = None
    """Who is graded by one call. true: the whole batch, as in TRL, so that completions can be
    compared (of several processes by the first, while other rewards are divided among them); the
    function has a process of its own, where what it remembers lives as long as the session (a hang
    or a crash starts it anew). Only when such a call fails or takes longer than
    reward_pool.batch_timeout is each completion graded by a call of its own (so that a bad one
    costs itself alone), and those without a fault once more together; a result that is no list of
    one grade per completion ends the run. false: every completion by a call of its own, in any of
    the reward_pool.workers. null: true for functions of one's own, false for built-ins."""
    on_timeout: Literal["none", "wrong"] = "none"
    """A function of one's own took longer than reward_pool.timeout for a completion. none: not
    graded, it takes no part in its group; wrong: 0. (A slow answer of a built-in is wrong, by
    processor time.)"""

    def __post_init__(self) -> None:
        if not self.function:
            raise ValueError(
                "rewards.function is empty: give a built-in name, 'module:function' or "
                "'file.py:function'"
            )
        if not math.isfinite(self.weight):
            raise ValueError(
                f"rewards.weight {self.weight} of {self.function!r} is not a finite number"
            )
        if self.name is not None and not self.name.strip():
            raise ValueError(
                f"rewards.name of {self.function!r} is empty: leave it out or give a name"
            )

    @property
    def label(self) -> str:
        """Name in metrics and logs."""
        return self.name if self.name is not None else self.function.rpartition(":")[2]


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Processes that run graders which may hang or crash."""

    workers: int = 2
    """Processes for functions that grade each completion by itself. Every function that is called
    with the whole batch has one process besides; built-ins that cannot hang run in the main
    process."""
    timeout: float = 10.0
    """Seconds per completion. A function of one's own that takes longer is killed, its completion
    counts as not graded (`on_timeout`). For built-ins, which have limits of their own, never less
    than ten times these: at that point nothing but a stalled machine is to blame, and the
    completion is graded once more."""
    batch_timeout: float | None = None
    """Seconds for a call with the whole batch; null: six times `timeout`."""
    max_tasks: int | None = None
    """Completions after which a process is replaced, which bounds what leaky graders keep. null:
    5000, and never for the process of a function that is called with the whole batch (it would lose
    its state)."""
    max_failed: int = 1
    """Batches in a row in which a function of non-zero weight raised on every completion, after
    which a run ends: by default the first, since that is a bug (a misspelt column). More for a
    service that comes back."""
    max_ungraded: int = 10
    """Batches in a row in which no completion got a grade, for whatever reason, after which a run
    ends."""
    memory_gb: float = 8.0
    """Memory that one process may allocate; beyond it a grader fails with MemoryError. Kept on
    Linux only."""

    preload: bool = True
    """Import the functions' modules once and fork the processes from there: they start, and are
    replaced, in milliseconds. False: import them in every process anew (for modules that start
    threads when imported)."""

    def __post_init__(self) -> None:
        for field in ("workers", "max_tasks", "max_failed", "max_ungraded"):
            if self.__dict__[field] is not None and self.__dict__[field] < 1:
                raise ValueError(f"reward_pool.{field} {self.__dict__[field]} must be at least 1")
        for field in ("timeout", "batch_timeout", "memory_gb"):
            value = self.__dict__[field]
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"reward_pool.{field} {value} must be a positive number")
