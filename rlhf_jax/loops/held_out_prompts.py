"""Held-out prompts: greedy and sampled completions, graded."""

import logging
from collections import Counter, defaultdict
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax.data import PromptBatch
from rlhf_jax.loops.online_setup import OnlineSetup
from rlhf_jax.rewards import answer_of
from rlhf_jax.rollout import SamplingParams
from rlhf_jax.types import Key, Params

_log = logging.getLogger(__name__)


class HeldOut(NamedTuple):
    """Metrics of an evaluation and the completions that they come from, as columns."""

    metrics: dict[str, float]
    samples: dict[str, list[Any]]


def evaluate_prompts(setup: OnlineSetup, params: Params, *, seed: int = 0) -> HeldOut:
    """Completes the held-out prompts greedily and `evaluation.samples` times at the sampling temperature.

    Args:
      setup: the run.
      params: the policy's parameters.
      seed: of the samples. The same in every evaluation of a run, so that they differ by the policy alone.

    Returns:
      Metrics rewards/greedy and rewards/sampled (mean total reward), length/greedy, length/truncated_greedy; where a reward says
      right or wrong also accuracy/greedy, accuracy/mean@k (share of right samples), accuracy/pass@k (share of prompts with a
      right sample) and accuracy/maj@k (share whose most frequent answer is right); nothing without held-out prompts.
    """
    loader, evaluation, config = setup.eval_prompts, setup.config.evaluation, setup.config
    if loader is None:
        return HeldOut({}, {})
    count = loader.num_examples if evaluation.max_prompts is None else min(evaluation.max_prompts, loader.num_examples)
    like_training = max(1, config.training.batch_size * setup.group_size // max(evaluation.samples, 1))
    per_batch = min(count, config.training.eval_batch_size or like_training)
    per_batch = -(-per_batch // setup.shards) * setup.shards
    temperature = config.algorithm.temperature if evaluation.temperature is None else evaluation.temperature
    top_p = config.rollout.top_p if evaluation.top_p is None else evaluation.top_p
    sampled = SamplingParams(temperature, top_p, config.rollout.top_k, config.rollout.min_p)
    table: dict[str, list[float]] = defaultdict(list)
    samples: dict[str, list[Any]] = defaultdict(list)
    key = jax.random.fold_in(jax.random.key(seed), 4)
    for start in range(0, count, per_batch):
        indices = np.arange(start, min(start + per_batch, count))
        prompts = loader.take(np.resize(indices, per_batch))  # one shape for all batches; the repeated ones are dropped
        real = len(indices)
        _greedy(setup, params, prompts, real, table, samples)
        _sampled(setup, params, prompts, real, jax.random.fold_in(key, start), sampled, table)
    return HeldOut({name: float(np.mean(values)) for name, values in table.items() if values}, dict(samples))


def _greedy(
    setup: OnlineSetup,
    params: Params,
    prompts: PromptBatch,
    real: int,
    table: dict[str, list[float]],
    samples: dict[str, list[Any]],
) -> None:
    """One completion per prompt."""
    rollout, _ = setup.sample_greedy(params, prompts, jax.random.key(0), SamplingParams(temperature=0.0))
    grades, first = setup.grader.grade(prompts, rollout), np.arange(real)
    lengths = rollout.completion_mask.sum(1)[first]
    table["rewards/greedy"] += [value for value in grades.total[first].tolist() if not np.isnan(value)]
    table["length/greedy"] += lengths.tolist()
    table["length/truncated_greedy"] += rollout.truncated[first].astype(float).tolist()
    if setup.grader.accuracy is not None:
        table["accuracy/greedy"] += setup.grader.correct(grades.total, grades.parts)[first].astype(float).tolist()
    shown = [prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in prompts.prompts[:real]]
    samples["prompt"] += shown
    samples["completion"] += [grades.texts[row] for row in first]
    samples["reward"] += [None if np.isnan(grades.total[row]) else float(grades.total[row]) for row in first]


def _sampled(
    setup: OnlineSetup,
    params: Params,
    prompts: PromptBatch,
    real: int,
    key: Key,
    sampling: SamplingParams,
    table: dict[str, list[float]],
) -> None:
    """k completions per prompt."""
    k = setup.config.evaluation.samples
    if k == 0:
        return
    rollout, _ = setup.sample_held_out(params, prompts, key, sampling)
    grades = setup.grader.grade(prompts, rollout)
    right = setup.grader.correct(grades.total, grades.parts).reshape(-1, k)[:real]
    total = grades.total.reshape(-1, k)[:real]
    answers = [answer_of(text, opened=bool(inside)) for text, inside in zip(grades.texts, grades.opened, strict=True)]
    answer = np.array(answers, object).reshape(-1, k)[:real]
    table["rewards/sampled"] += [value for value in total.reshape(-1).tolist() if not np.isnan(value)]
    if setup.grader.accuracy is not None:
        table[f"accuracy/mean@{k}"] += right.mean(1).tolist()
        table[f"accuracy/pass@{k}"] += right.any(1).astype(float).tolist()
        table[f"accuracy/maj@{k}"] += [majority(*row) for row in zip(answer, right, strict=True)]


def majority(answers: np.ndarray, right: np.ndarray) -> float:
    """Whether the most frequent answer is right: 1 or 0; on a tie the share of right ones among the most frequent.

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
