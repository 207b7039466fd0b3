"""What is wrong with a run that goes on but does not learn: read off its metrics, with the cure.

`diagnose` is a pure function of the last rows. Thresholds are loose: a healthy run hears nothing,
and each kind has a section of its name in `docs/diagnosis.md`, with what to look at and to change.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

PAGE = "docs/diagnosis.md"
RECENT = 20
"""Newest steps that most kinds look at."""
HISTORY = 200
"""Steps that `diagnose` can make use of."""
LEAST = 5
"""Steps without which nothing is said."""
LONG = 60
"""Steps without which nothing is said of a reward that does not rise."""
EQUAL = 0.6
"""Share of groups with equal rewards."""
WASTED = 0.8
"""Share of generated groups that dynamic sampling drops."""
CUT = 0.5
"""Share of completions that reach the limit."""
UNGRADED = 0.05
"""Share of completions without a grade."""
ENTROPY = 0.05
"""Nats per token."""
KL = 0.5
"""Nats per token."""
SKIPPED = 0.2
"""Share of skipped updates."""
MOVED = 0.5
"""Share of 16-bit weights that moved after some updates; in float32 it is 1."""
SOLVED = 0.9
"""Share of right answers above which a sure policy is what is wanted, and equal groups are no
surprise."""

Rows = Sequence[Mapping[str, float]]


class Diagnosis(NamedTuple):
    """Something that keeps a run from learning."""

    name: str
    """Of its section in the documentation."""
    text: str
    """One line: what is seen, and what helps."""

    def __str__(self) -> str:
        return f"{self.text} ({PAGE}#{self.name})"


def diagnose(rows: Rows, *, moved: float | None = None) -> list[Diagnosis]:
    """What keeps a run from learning.

    Args:
      rows: metrics of consecutive training steps, the newest last (`HISTORY` of them are enough);
        what a run does not report is not judged.
      moved: share of the 16-bit weights that have moved since the start, once that was looked at
        (`training.MovementCheck`).

    Returns:
      One of each kind at most, what explains most first. A reward that does not rise is only told
      where nothing else explains it.
    """
    found = [] if moved is None or moved >= MOVED else [_vanishing(moved)]
    if len(rows) < LEAST:
        return found
    told = [check(rows) for check in _CHECKS]
    found += [one for one in told if one is not None]
    flat = _flat_reward(rows)
    return found or ([] if flat is None else [flat])


def _vanishing(moved: float) -> Diagnosis:
    return Diagnosis(
        "vanishing-updates",
        f"only {_share(moved)} of the 16-bit weights have moved: updates this small are rounded "
        "away; set model.dtype=float32 with model.compute_dtype=bfloat16, or raise "
        "optimizer.learning_rate",
    )


def _learning_rate(rows: Rows) -> Diagnosis | None:
    rates = _values(rows[-RECENT:], "lr")
    if len(rates) < LEAST or any(rates):
        return None
    return Diagnosis(
        "learning-rate-0",
        f"the learning rate was 0 in the last {len(rates)} steps, so nothing is learnt: look at "
        "optimizer.learning_rate, optimizer.warmup_steps and the schedule's end (and, where a "
        "critic is trained alone first, algorithm.critic_warmup)",
    )


def _skipped(rows: Rows) -> Diagnosis | None:
    share = _mean(rows[-RECENT:], "update/skipped")
    if share is None or share <= SKIPPED:
        return None
    return Diagnosis(
        "skipped-updates",
        f"{_share(share)} of the last {_count(rows)} steps had a loss or gradient that is not "
        "finite and were skipped: lower optimizer.learning_rate, keep losses in float32, look for "
        "rewards that are not finite",
    )


def _ungraded(rows: Rows) -> Diagnosis | None:
    recent = rows[-RECENT:]
    share = _mean(recent, "rewards/ungraded")
    if share is None or share <= UNGRADED:
        return None
    failed = {
        name.removeprefix("rewards/failed/"): _mean(recent, name) or 0.0
        for row in recent
        for name in row
        if name.startswith("rewards/failed/")
    }
    worst = max(failed, key=lambda name: failed[name], default=None)
    why = "" if worst is None else f", most of them by {worst.replace('/', ': ')}"
    return Diagnosis(
        "ungraded",
        f"{_share(share)} of the completions of the last {_count(rows)} steps got no grade{why}: "
        "they teach nothing; log.txt has the first message of each failure, completions/ has the "
        "texts",
    )


def _cut_off(rows: Rows) -> Diagnosis | None:
    share = _mean(rows[-RECENT:], "length/truncated")
    if share is None or share <= CUT:
        return None
    return Diagnosis(
        "cut-off",
        f"{_share(share)} of the completions of the last {_count(rows)} steps were cut off before "
        "they ended, mostly without an answer: raise rollout.max_new_tokens, ask for shorter "
        "answers, or look whether the model knows its end token (rollout.stop)",
    )


def _equal_groups(rows: Rows) -> Diagnosis | None:
    recent = rows[-RECENT:]
    equal = _mean(recent, "rewards/zero_std_groups") or 0.0
    wasted = _mean(recent, "data/sampling_waste") or 0.0
    if (equal <= EQUAL and wasted <= WASTED) or (_mean(recent, "data/accuracy") or 0) > SOLVED:
        return None
    what = "of the groups had equal rewards and taught nothing"
    if wasted > WASTED:
        what = "of the groups generated were dropped, because their rewards were equal"
    right = _ratio(recent, "data/groups_all_right", "data/groups_generated")
    wrong = _ratio(recent, "data/groups_all_wrong", "data/groups_generated")
    known = right is not None and wrong is not None
    kinds = f" ({_share(right or 0)} all right, {_share(wrong or 0)} all wrong)" if known else ""
    prompts = "prompts that are neither too easy nor too hard"
    if known and (right or 0) != (wrong or 0):
        prompts = "harder prompts" if (right or 0) > (wrong or 0) else "easier prompts"
    cure = "a larger algorithm.group_size or a higher algorithm.temperature"
    # A reward model's scores are hardly ever equal unless the answers are.
    if not _ratio(recent, "data/groups_alike", "data/groups_generated"):
        cure = f"{prompts}, {cure}"
    return Diagnosis(
        "equal-groups",
        f"{_share(max(equal, wasted))} {what} in the last {_count(rows)} steps{kinds}: take {cure}",
    )


def _entropy(rows: Rows) -> Diagnosis | None:
    recent = rows[-RECENT:]
    entropy = _mean(recent, "policy/entropy")
    if entropy is None or entropy >= ENTROPY or (_mean(recent, "data/accuracy") or 0) > SOLVED:
        return None
    return Diagnosis(
        "entropy-collapsed",
        f"the policy's entropy is {entropy:.3f} nats per token: it always says the same, and finds "
        "nothing new; go on from an earlier checkpoint (checkpoint.start_from) with a lower "
        "optimizer.learning_rate, a larger algorithm.clip_high or a KL penalty (algorithm.kl_coef)",
    )


def _kl(rows: Rows) -> Diagnosis | None:
    half = RECENT // 2
    now = _mean(rows[-half:], "kl/ref")
    before = _mean(rows[-RECENT:-half], "kl/ref")
    if now is None or before is None or now <= KL or now <= 1.2 * before:
        return None
    return Diagnosis(
        "kl-runs-away",
        f"the policy leaves its reference: KL {now:.2f} nats per token, {before:.2f} {half} steps "
        "before; read some completions (a reward that is gamed looks like this), then lower "
        "optimizer.learning_rate or raise algorithm.kl_coef",
    )


def _flat_reward(rows: Rows) -> Diagnosis | None:
    if not any("data/groups_generated" in row for row in rows):
        # A reward model reports the mean of its scores under the same name, which nothing raises.
        return None
    dropped = _mean(rows, "data/sampling_waste") or 0.0
    # Of dynamic sampling the batch holds groups with right and wrong answers, whose mean stays;
    # nothing is right or wrong where a reward model judges.
    judged = any("data/accuracy" in row for row in rows)
    name = "data/accuracy" if dropped > 0 and judged else "rewards/mean"
    values = _values(rows, name)
    if len(values) < LONG or (_mean(rows[-RECENT:], "data/accuracy") or 0) > SOLVED:
        return None
    half = len(values) // 2
    first = values[:half]
    second = values[half:]
    rise = statistics.fmean(second) - statistics.fmean(first)
    error = math.sqrt(
        statistics.variance(first) / len(first) + statistics.variance(second) / len(second)
    )
    if rise > error:
        return None
    what = "share of right answers" if name == "data/accuracy" else "reward"
    return Diagnosis(
        "flat-reward",
        f"the {what} did not rise in the last {len(values)} steps ({statistics.fmean(first):.3f}, "
        f"then {statistics.fmean(second):.3f}) although updates are made and groups differ: raise "
        "optimizer.learning_rate, take more prompts per step (training.batch_size), and read "
        "completions with their rewards",
    )


_CHECKS: tuple[Callable[[Rows], Diagnosis | None], ...] = (
    _learning_rate,
    _skipped,
    _ungraded,
    _cut_off,
    _equal_groups,
    _kl,
    _entropy,
)
NAMES = (
    "vanishing-updates",
    "learning-rate-0",
    "skipped-updates",
    "ungraded",
    "cut-off",
    "equal-groups",
    "kl-runs-away",
    "entropy-collapsed",
    "flat-reward",
)
"""Every kind, in the order in which they are told; each is a section of the documentation."""


def _values(rows: Rows, name: str) -> list[float]:
    return [row[name] for row in rows if name in row and math.isfinite(row[name])]


def _mean(rows: Rows, name: str) -> float | None:
    """None where no row has it."""
    values = _values(rows, name)
    return statistics.fmean(values) if values else None


def _ratio(rows: Rows, part: str, whole: str) -> float | None:
    total = sum(_values(rows, whole))
    return sum(_values(rows, part)) / total if total else None


def _count(rows: Rows) -> int:
    return min(len(rows), RECENT)


def _share(value: float) -> str:
    return f"{100 * value:.1f}%" if value < 0.1 else f"{100 * value:.0f}%"
