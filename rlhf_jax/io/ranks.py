"""Which checkpoint is best: the value of one metric by step, told after a checkpoint was saved.

A state is saved before it is evaluated, so that a run which is stopped or killed during an
evaluation loses nothing. Its metric therefore comes later than the checkpoint and lies beside the
checkpoints, in `ranks.json`.
"""

import dataclasses
import datetime
import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from orbax.checkpoint import checkpoint_managers as policies

from rlhf_jax import cloud
from rlhf_jax.cloud import Place
from rlhf_jax.io.errors import UnreadableError
from rlhf_jax.io.seal import digest
from rlhf_jax.sharding.processes import is_leader

FILE = "ranks.json"


class Saved(NamedTuple):
    """A checkpoint as orbax shows it to its policies."""

    step: int
    metrics: Mapping[str, float] | None
    time: datetime.datetime

    @classmethod
    def of(cls, folder: Place, metrics: Mapping[str, float] | None) -> "Saved":
        """The checkpoint in a folder that is named by its step."""
        # folders of a bucket have no time, and what is newest follows from the step
        seconds = 0.0 if cloud.is_bucket(folder) else folder.stat().st_mtime
        time = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
        return cls(int(folder.name), metrics, time)


class Ranks:
    """Values of a metric by step, in a file that every process reads and one writes.

    Args:
      directory: of the checkpoints.
      metric: which one; None: nothing is ranked.
      mode: whether a large or a small value is good.
    """

    def __init__(self, directory: Place, metric: str | None, mode: Literal["max", "min"]) -> None:
        self._path = directory / FILE
        self._metric = metric
        self._sign = 1.0 if mode == "max" else -1.0
        self._values: dict[str, dict[str, float]] = {}
        if metric is not None and self._path.exists():
            self._values = self._read()

    def value(self, step: int, stored: Mapping[str, float] | None) -> float | None:
        """The metric at a step; `stored` are the metrics that a checkpoint was saved with."""
        if self._metric is None:
            return None
        return self._values.get(self._metric, {}).get(str(step), (stored or {}).get(self._metric))

    def rank(self, step: int, stored: Mapping[str, float] | None) -> float:
        """Larger is better; -inf where the metric is not known."""
        value = self.value(step, stored)
        return -math.inf if value is None else self._sign * value

    def best(self, stored: Mapping[int, Mapping[str, float] | None], count: int = 1) -> list[int]:
        """The best steps, best first; of two equal ones the newer; unranked ones are no candidates.

        Args:
          stored: step -> the metrics that its checkpoint was saved with.
          count: how many at most.
        """
        order = sorted(
            ((self.rank(step, metrics), step) for step, metrics in stored.items()), reverse=True
        )
        return [step for rank, step in order if rank > -math.inf][:count]

    def note(self, step: int, value: float, steps: Collection[int]) -> None:
        """Keeps the value of a step, and of all others only those of the `steps` that there are."""
        if self._metric is None:
            return
        there = {str(number) for number in steps}
        self._values = {
            metric: kept
            for metric, values in self._values.items()
            if (kept := {number: held for number, held in values.items() if number in there})
        }
        self._values.setdefault(self._metric, {})[str(step)] = value
        if is_leader():
            text = json.dumps({"values": self._values, "sha256": digest(self._values)})
            if cloud.is_bucket(self._path):
                cloud.patiently(
                    f"{self._path} cannot be written", lambda: self._path.write_text(text)
                )
                return
            temporary = self._path.with_name(f".{FILE}.tmp")
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, self._path)

    def _read(self) -> dict[str, dict[str, float]]:
        try:
            sealed = json.loads(self._path.read_bytes())
            if sealed["sha256"] == digest(sealed["values"]):
                return sealed["values"]
        # not what was written: as a wrong digest
        except (OSError, ValueError, TypeError, KeyError):
            pass
        raise UnreadableError(
            f"{self._path} is damaged: its contents are not those that were written; remove it to "
            "go on (which checkpoint was best is then known from the next evaluation on)"
        )


@dataclasses.dataclass(frozen=True)
class BestRanked(policies.PreservationPolicy):
    """Keeps the `count` best checkpoints."""

    ranks: Ranks
    count: int

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Which of the checkpoints stay."""
        best = self.ranks.best({info.step: info.metrics for info in checkpoints}, self.count)
        return [info.step in best for info in checkpoints]


@dataclasses.dataclass(frozen=True)
class FirstOfEvery(policies.PreservationPolicy):
    """Keeps the first checkpoint of every stretch of `steps` steps but the one from 0, so that
    those of a long run are spread over it, whichever steps are saved."""

    steps: int

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Which of the checkpoints stay."""
        first: dict[int, int] = {}
        for step in sorted(info.step for info in checkpoints):
            first.setdefault(step // self.steps, step)
        first.pop(0, None)
        kept = set(first.values())
        return [info.step in kept for info in checkpoints]


def stale_steps(policy: Any, checkpoints: Sequence[Saved]) -> list[int]:
    """The steps that a policy does not keep."""
    kept = policy.should_preserve(checkpoints, context=policies.PreservationContext())
    return [saved.step for saved, keep in zip(checkpoints, kept, strict=True) if not keep]
