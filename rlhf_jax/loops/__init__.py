"""The two loops and their parts. Whole runs, which put them together, are in `rlhf_jax.runs`.

Read `online` from top to bottom; `collect`, `grading` and `groups` are what it opens. `offline` is
the same for data that is there; both tell a `recorder` what happened.
"""

from rlhf_jax.loops.offline import train_offline
from rlhf_jax.loops.online import train_online

__all__ = ["train_offline", "train_online"]
