"""From the graded completions of an evaluation to its metrics. Arrays in, numbers out."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.rewards.answers import answer_of
from rlhf_jax.rewards.judging import Judge, Tasks, Verdict


class Answers(NamedTuple):
    """Completions of N prompts, k of each."""

    total: np.ndarray
    """float32 [N, k]; NaN = not graded."""
    per_reward: np.ndarray
    """float32 [N, k, R]."""
    length: np.ndarray
    """int [N, k], tokens."""
    truncated: np.ndarray
    """bool [N, k]."""
    texts: list[str]
    """N * k, prompt by prompt."""
    opened: np.ndarray
    """bool [N, k]: the completion starts inside a block ``<think>`` that its prompt opened."""
    failures: dict[str, int]
    """"label/kind" -> completions."""
    extra: dict[str, list[Any]] = {}
    """Columns that reward functions logged, N * k values each; None where there is none."""
    logged: dict[str, list[float]] = {}
    """"label/name" -> what reward functions logged as a metric, one mean per batch."""


def join_answers(batches: Sequence[Answers]) -> Answers:
    """The completions of several batches of prompts."""
    failures: Counter[str] = Counter()
    logged: dict[str, list[float]] = {}
    extra: dict[str, list[Any]] = {name: [] for batch in batches for name in batch.extra}
    for batch in batches:
        failures.update(batch.failures)
        for name, values in batch.logged.items():
            logged.setdefault(name, []).extend(values)
        for name, column in extra.items():
            column += batch.extra.get(name, [None] * len(batch.texts))
    return Answers(
        np.concatenate([batch.total for batch in batches]),
        np.concatenate([batch.per_reward for batch in batches]),
        np.concatenate([batch.length for batch in batches]),
        np.concatenate([batch.truncated for batch in batches]),
        [text for batch in batches for text in batch.texts],
        np.concatenate([batch.opened for batch in batches]),
        dict(failures),
        extra,
        logged,
    )


def verdicts_of(judge: Judge, answers: Sequence[Answers]) -> list[Verdict]:
    """Which completions are right. What one set tells about the judges holds for those after it.

    Args:
      judge: who says right or wrong.
      answers: the greedy completions, then the sampled ones.
    """
    tasks: Tasks = {}
    verdicts = []
    for one in answers:
        tasks = judge.learn(one.total, one.per_reward, tasks)
        verdicts.append(judge.correct(one.total, one.per_reward, tasks))
    return verdicts


def metrics_of(judge: Judge, greedy: Answers, sampled: Answers | None) -> dict[str, float]:
    """All metrics of an evaluation; a mean over nothing is left out.

    Args:
      judge: who says right or wrong.
      greedy: one completion per prompt.
      sampled: k completions per prompt, or None.

    Returns:
      See `evaluate_prompts`.
    """
    verdicts = verdicts_of(judge, [one for one in (greedy, sampled) if one is not None])
    metrics = _rewards(greedy, "greedy", "", judge.names) | {
        "length/greedy": float(greedy.length.mean()),
        "length/truncated_greedy": float(greedy.truncated.mean()),
    }
    if sampled is not None:
        metrics |= _rewards(sampled, "sampled", "_sampled", judge.names)
    if not judge.says:
        return metrics
    right, judged = verdicts[0]
    metrics |= _mean("accuracy/greedy", right[judged])
    if sampled is not None:
        answers = [
            answer_of(text, opened=bool(inside))
            for text, inside in zip(sampled.texts, sampled.opened.reshape(-1), strict=True)
        ]
        metrics |= accuracies(verdicts[1], answers)
    return metrics


def metric_names(judge: Judge, samples: int) -> list[str]:
    """What an evaluation of `samples` completions per prompt can produce."""
    names = ["rewards/greedy", "rewards/ungraded", "length/greedy", "length/truncated_greedy"]
    names += ["accuracy/greedy"] if judge.says else []
    names += [f"rewards/{name}" for name in _several(judge.names)]
    if samples:
        names += [f"rewards/{name}_sampled" for name in _several(judge.names)]
        names += ["rewards/sampled", "rewards/ungraded_sampled"]
        names += (
            [f"accuracy/{kind}@{samples}" for kind in ("mean", "pass", "maj")] if judge.says else []
        )
    return names


def accuracies(verdict: Verdict, finals: Sequence[str | None]) -> dict[str, float]:
    """mean@k, pass@k and maj@k over what was judged; a prompt of which no sample was judged does
    not count.

    Args:
      verdict: arrays [N, k].
      finals: N * k final answers in a normal form, None where there is none.
    """
    k = verdict.judged.shape[1]
    answers = np.array(finals, object).reshape(verdict.judged.shape)
    prompts = [
        (right[judged], answer[judged])
        for right, judged, answer in zip(verdict.right, verdict.judged, answers, strict=True)
        if judged.any()
    ]
    return (
        _mean(f"accuracy/mean@{k}", verdict.right[verdict.judged])
        | _mean(f"accuracy/pass@{k}", [right.any() for right, _ in prompts])
        | _mean(f"accuracy/maj@{k}", [majority(answer, right) for right, answer in prompts])
    )


def majority(answers: np.ndarray, right: np.ndarray) -> float:
    """Whether the most frequent answer is right: 1 or 0; on a tie the share of right ones among the
    most frequent.

    Args:
      answers: [k] texts, None where there is none (never a majority).
      right: [k] bool.
    """
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    winners = [answer for answer, count in counts.items() if count == most]
    return float(np.mean([right[list(answers).index(answer)] for answer in winners]))


def _several(names: Sequence[str]) -> Sequence[str]:
    """The names of rewards, where there are more than one: the mean of a single one is known."""
    return names if len(names) > 1 else ()


def _rewards(answers: Answers, name: str, suffix: str, names: Sequence[str]) -> dict[str, float]:
    """The mean reward, that of each function, and what could not be graded."""
    graded = ~np.isnan(answers.total)
    further = {
        f"rewards/failed{suffix}/{kind}": float(count) for kind, count in answers.failures.items()
    }
    for place, label in enumerate(_several(names)):
        own = answers.per_reward[..., place]
        further |= _mean(f"rewards/{label}{suffix}", own[~np.isnan(own)])
    for label, values in answers.logged.items():
        further |= _mean(f"rewards/{label}{suffix}", values)
    return (
        _mean(f"rewards/{name}", answers.total[graded])
        | {f"rewards/ungraded{suffix}": float(1 - graded.mean())}
        | further
    )


def _mean(name: str, values: np.ndarray | Sequence[float]) -> dict[str, float]:
    return {name: float(np.mean(values, dtype=np.float64))} if len(values) else {}
