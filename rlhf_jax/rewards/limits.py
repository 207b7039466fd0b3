"""How long a grader may take, and who is graded by one call. Known from the configuration alone.

Two clocks. An *answer* that keeps a built-in busy is wrong, by processor time: it must not depend
on what else the machine does. A *grader* that does not come back is a fault, by wall time: nobody's
answer is wrong for it.
"""

from rlhf_jax.rewards.code import Limits
from rlhf_jax.rewards.config import PoolConfig, RewardConfig
from rlhf_jax.rewards.registry import LIMITED, MODEL, REWARDS, SANDBOXED

_CPU_SECONDS = 2.0
"""Honest answers of math-verify's own 269 cases take 3 ms (median) to 0.73 s."""
_STALL = 10.0
"""Wall time over the limit of a built-in, after which the machine is to blame."""
_BATCH = 6.0
POOL_OPTIONS = frozenset({"timeout"})
"""Options of `LIMITED` rewards that the pool reads; the function does not get them."""


def is_builtin(config: RewardConfig) -> bool:
    """Whether a reward is the library's own (or a model): no code of a configuration runs."""
    return config.function in REWARDS or config.function == MODEL


def whole_batch(config: RewardConfig) -> bool:
    """Whether the function is called once with the whole batch."""
    return config.batched if config.batched is not None else not is_builtin(config)


def cpu_seconds(config: RewardConfig) -> float | None:
    """Processor time that one completion may take before it is wrong; None: no such limit.

    Raises:
      ValueError: the option is no positive number.
    """
    if config.function not in LIMITED:
        return None
    seconds = config.options.get("timeout", _CPU_SECONDS)
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not 0 < seconds < float("inf")
    ):
        raise ValueError(
            f"rewards.options.timeout {seconds!r} of {config.label!r} must be a positive number: "
            "seconds of processor time"
        )
    return float(seconds)


def wall_seconds(config: RewardConfig, pool: PoolConfig, *, batched: bool) -> float:
    """Wall time of one call, after which its process is killed."""
    if batched:
        return pool.batch_timeout if pool.batch_timeout is not None else _BATCH * pool.timeout
    own = cpu_seconds(config)
    if config.function in SANDBOXED:
        own = config.options.get("timeout", Limits().timeout)
    return pool.timeout if own is None else max(pool.timeout, _STALL * own)
