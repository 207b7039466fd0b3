"""Who says whether a completion is right: one reward, or the verifiers of several tasks, each of
its own rows.

"Not judged" is neither right nor wrong. A reward that returns None for the rows of another task
leaves them to the next judge; a row that no judge grades stays out of every accuracy, and its group
out of dynamic sampling.

Judges that are named are asked in their order. Without names the first reward judges (built-in ones
for form come last), and a later one becomes a judge when it is seen to be the verifier of another
task: it leaves alone what the judges before it grade, without exception. A reward for form, which
grades every row, never does, so that it does not judge the rows on which the verifier abstains.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.rewards.config import RewardConfig
from rlhf_jax.rewards.registry import MODEL

FORM = frozenset({"think_format", "format", "length", "repetition", "overlong", "harmful"})
"""Built-in rewards that say nothing about right and wrong, or the opposite of it: judges only when
they are named or there is no other reward."""

Tasks = Mapping[str, bool]
"""Name of a reward -> it has graded nothing but what the judges before it left alone; rewards not
seen yet are missing."""


class Verdict(NamedTuple):
    """Which completions are right, and of which that is known. Arrays of one shape."""

    right: np.ndarray
    """bool, a subset of `judged`."""
    judged: np.ndarray
    """bool."""

    def told(self) -> list[bool | None]:
        """One by one, in storage order: right, wrong, or None where it is not known."""
        pairs = zip(self.right.reshape(-1), self.judged.reshape(-1), strict=True)
        return [bool(right) if judged else None for right, judged in pairs]


class Judge(NamedTuple):
    """The rewards that say right or wrong, by their place among the run's rewards."""

    names: tuple[str, ...]
    """Of all rewards."""
    judges: tuple[int, ...]
    """Asked in this order. Empty: a reward model stands there, and a completion is right when its
    total reward is positive."""
    candidates: tuple[int, ...]
    """Rewards that may turn out to be judges."""

    @property
    def says(self) -> bool:
        """Whether there is an accuracy at all, and not only positive rewards."""
        return bool(self.judges)

    def learn(self, total: np.ndarray, per_reward: np.ndarray, tasks: Tasks) -> dict[str, bool]:
        """What is known about the candidates after some more completions.

        Args:
          total: float [...], rewards; NaN = not graded. Such rows say nothing: a failure is no
            abstention.
          per_reward: float [..., R], each reward's own value; NaN = not graded.
          tasks: what was known before.
        """
        known = dict(tasks)
        if not self.candidates:
            return known
        graded = ~np.isnan(per_reward)
        taken = graded[..., list(self.judges)].any(-1)
        for index in self.candidates:
            name = self.names[index]
            told = taken & ~np.isnan(total)
            if (graded[..., index] & told).any():
                known[name] = False
            elif told.any():
                known.setdefault(name, True)
            if known.get(name, False):
                taken = taken | graded[..., index]
        return known

    def correct(self, total: np.ndarray, per_reward: np.ndarray, tasks: Tasks) -> Verdict:
        """Judges completions: right when the first judge that grades it is positive, before any
        penalty.

        Args:
          total: float [...], rewards; NaN = not graded.
          per_reward: float [..., R].
          tasks: from `learn`.
        """
        if not self.judges:
            judged = ~np.isnan(total)
            return Verdict(judged & (np.nan_to_num(total, nan=0.0) > 0), judged)
        right = np.zeros(total.shape, bool)
        judged = np.zeros(total.shape, bool)
        found = [index for index in self.candidates if tasks.get(self.names[index], False)]
        for index in (*self.judges, *found):
            value = per_reward[..., index]
            asked = ~judged & ~np.isnan(value)
            right |= asked & (np.nan_to_num(value, nan=0.0) > 0)
            judged |= asked
        return Verdict(right, judged)

    def better(self, total: np.ndarray, verdict: Verdict) -> np.ndarray:
        """What dynamic sampling asks of a group: completions better than others of it.

        A reward model's scores have no border between right and wrong, and a group teaches as soon
        as they differ (verl's rule for scores).

        Args:
          total: float [N, G], rewards by prompt; NaN = not graded.
          verdict: of `correct`.

        Returns:
          bool [N, G]: right; where a reward model judges, above the lowest reward of its group.
        """
        if self.says:
            return verdict.right
        lowest = np.min(np.nan_to_num(total, nan=np.inf), axis=1, keepdims=True)
        above: np.ndarray = np.nan_to_num(total, nan=-np.inf) > lowest
        return above


def make_judge(rewards: Sequence[RewardConfig], named: str | Sequence[str] | None) -> Judge:
    """The judge of some rewards.

    Args:
      rewards: all of the run.
      named: `accuracy_reward`: one name, several, or None for the rule without names.
    """
    names = tuple(reward.label for reward in rewards)
    functions = [reward.function for reward in rewards]
    if not names:
        return Judge((), (), ())
    chosen = (named,) if isinstance(named, str) else tuple(named or ())
    verifiers = [index for index, function in enumerate(functions) if function not in FORM] or [0]
    judges = [names.index(name) for name in chosen] or verifiers[:1]
    if functions[judges[0]] == MODEL:
        return Judge(names, (), ())
    others = [] if chosen else [index for index in verifiers[1:] if functions[index] != MODEL]
    return Judge(names, tuple(judges), tuple(others))
