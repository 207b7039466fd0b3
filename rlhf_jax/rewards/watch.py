"""Whether rewards still tell anything: total failure ends a run, suspicion is warned of once."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_jax.rewards.answers import OPENED_COLUMN, answer_of
from rlhf_jax.rewards.config import PoolConfig, RewardConfig
from rlhf_jax.rewards.registry import VERIFIABLE
from rlhf_jax.rewards.scoring import RewardScores

_log = logging.getLogger(__name__)
_WARN_SHARE = 0.05
_WARN_AGAIN = 100
"""Batches between two warnings of the same function."""
_ALL_ZERO = 10
"""Batches in a row of nothing but 0, after which a verifiable reward is suspected of misreading its
rows."""


class RewardWatch:
    """Looks at every graded training batch. Counts are of a session: a resumed run starts anew."""

    def __init__(self, configs: Sequence[RewardConfig], pool: PoolConfig) -> None:
        self._configs = tuple(configs)
        self._pool = pool
        self._ungraded = 0
        self._raised: dict[str, int] = {}
        self._all_zero: dict[str, int] = {}
        self._quiet: dict[str, int] = {}

    def note(
        self,
        total: np.ndarray,
        scores: RewardScores | None,
        texts: Sequence[str],
        columns: Mapping[str, Sequence[Any]],
    ) -> str | None:
        """Counts a batch, and warns where something looks wrong.

        Args:
          total: float32 [N], NaN = not graded.
          scores: of the functions; None when all rewards are models.
          texts: N completions.
          columns: data columns, N values each; `OPENED_COLUMN` where a prompt opened ``<think>``.

        Returns:
          Why the run cannot go on, in one line; None: it can.
        """
        if not len(total):
            return None
        if scores is not None:
            for config in self._configs:
                if config.label in scores.by_name:
                    if ending := self._all_raised(config, scores):
                        return ending
                    self._warn_of_share(config.label, scores)
                    self._warn_of_zeros(config, scores.by_name[config.label], texts, columns)
        return self._none_graded(total, scores)

    def _all_raised(self, config: RewardConfig, scores: RewardScores) -> str | None:
        label = config.label
        count = len(scores.total)
        raised = config.weight != 0 and scores.failures.get(f"{label}/error", 0) == count
        self._raised[label] = self._raised.get(label, 0) + 1 if raised else 0
        if self._raised[label] < self._pool.max_failed:
            return None
        batches = (
            "the batch" if self._raised[label] == 1 else f"{self._raised[label]} batches in a row"
        )
        return (
            f"reward {label!r} ({config.function}) raised on every completion of {batches}: "
            f"{scores.messages[f'{label}/error']}; mend it and give the same command again "
            f"(reward_pool.max_failed={self._pool.max_failed}; more for a service that comes back)"
        )

    def _none_graded(self, total: np.ndarray, scores: RewardScores | None) -> str | None:
        if not np.isnan(total).all():
            self._ungraded = 0
            return None
        self._ungraded += 1
        failures = {} if scores is None else scores.failures
        reasons = (
            ", ".join(f"{name} {count}" for name, count in sorted(failures.items()))
            or "no reward is a number"
        )
        if self._ungraded >= self._pool.max_ungraded:
            return (
                f"no completion of {self._ungraded} batches in a row got a grade (the last: "
                f"{len(total)} completions, {reasons}); look at the rewards and at the columns "
                f"they read (reward_pool.max_ungraded={self._pool.max_ungraded})"
            )
        if self._ungraded == 1:
            _log.warning(
                "no completion of this batch of %d got a grade (%s): nothing is learnt from it",
                len(total),
                reasons,
            )
        return None

    def _warn_of_share(self, label: str, scores: RewardScores) -> None:
        self._quiet[label] = self._quiet.get(label, 0) - 1
        found = {
            kind: scores.failures.get(f"{label}/{kind}", 0)
            for kind in ("slow", "timeout", "error", "crash")
        }
        if (
            sum(found.values()) < _WARN_SHARE * len(scores.total)
            or not sum(found.values())
            or self._quiet[label] > 0
        ):
            return
        self._quiet[label] = _WARN_AGAIN
        kinds = ", ".join(f"{count} {kind}" for kind, count in found.items() if count)
        first = next(scores.messages[f"{label}/{kind}"] for kind, count in found.items() if count)
        _log.warning(
            "reward %s: %.0f %% of a batch of %d were too slow (0) or failed (not graded): %s; the "
            "first %s",
            label,
            100 * sum(found.values()) / len(scores.total),
            len(scores.total),
            kinds,
            first,
        )

    def _warn_of_zeros(
        self,
        config: RewardConfig,
        values: np.ndarray,
        texts: Sequence[str],
        columns: Mapping[str, Sequence[Any]],
    ) -> None:
        graded = np.flatnonzero(~np.isnan(values))
        if config.function not in VERIFIABLE or not len(graded):
            return
        label = config.label
        self._all_zero[label] = 0 if values[graded].any() else self._all_zero.get(label, 0) + 1
        if self._all_zero[label] != _ALL_ZERO:
            return
        row = int(graded[0])
        opened = bool(columns[OPENED_COLUMN][row]) if OPENED_COLUMN in columns else False
        answer = answer_of(texts[row], opened=opened)
        unclosed = (
            ", whose prompt opens <think> and which never closes it"
            if opened and "</think>" not in texts[row]
            else ""
        )
        _log.warning(
            "reward %s was 0 for every completion of %d batches in a row: either the task is too "
            "hard, or the rows or the answers are not read as they are meant. Look at the format "
            "of the rows and at how completions give their answer; one of them: row {%s}, "
            "completion ending in %r%s, read as %s",
            label,
            _ALL_ZERO,
            ", ".join(f"{name}: {repr(values[row])[:80]}" for name, values in columns.items()),
            texts[row][-200:],
            unclosed,
            "no answer" if answer is None else f"the answer {answer[:80]!r}",
        )
