"""Held-out prompts: greedy and sampled completions, graded."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax.data import PromptBatch
from rlhf_jax.io import GREEDY
from rlhf_jax.loops.grading import Grades
from rlhf_jax.loops.held_out_metrics import Answers, join_answers, metrics_of
from rlhf_jax.loops.online_setup import OnlineSetup
from rlhf_jax.rewards.answers import content_of
from rlhf_jax.rollout import SamplingParams
from rlhf_jax.types import Key, Params, Rollout


class HeldOut(NamedTuple):
    """Metrics of an evaluation and the completions that they come from."""

    metrics: dict[str, float]
    samples: tuple[dict[str, list[Any]], ...] = ()
    """Columns of the completion files, of the greedy completions and of the sampled ones."""
    stopped: bool = False
    """The evaluation was given up: there is nothing of it."""


def evaluate_prompts(
    setup: OnlineSetup,
    params: Params,
    *,
    seed: int = 0,
    stopped: Callable[[], bool] = lambda: False,
) -> HeldOut:
    """Completes the held-out prompts greedily and `evaluation.samples` times at the sampling
    temperature.

    Args:
      setup: the run.
      params: the policy's parameters.
      seed: of the samples. What is drawn depends on it, the prompt's place in the split and the
        number of the sample alone: evaluations of a run differ by the policy, and neither batch
        size nor mesh nor the number of samples changes them.
      stopped: whether a signal asked to stop; asked between generation batches.

    Returns:
      Metrics rewards/greedy and rewards/sampled (mean total reward of what was graded),
      rewards/ungraded and rewards/failed/NAME/KIND of the greedy completions,
      rewards/ungraded_sampled and rewards/failed_sampled/NAME/KIND of the sampled ones,
      rewards/NAME/METRIC and rewards/NAME/METRIC_sampled (means of what reward functions log by
      `log_metric`), length/greedy, length/truncated_greedy; where a reward says right or wrong also
      accuracy/greedy, accuracy/mean@k (share of right samples), accuracy/pass@k (share of prompts
      with a right sample) and accuracy/maj@k (share whose most frequent answer is right), each over
      what was judged; nothing without held-out prompts, or when stopped.
    """
    loader, evaluation, config = setup.eval_prompts, setup.config.evaluation, setup.config
    if loader is None:
        return HeldOut({})
    count = (
        loader.num_examples
        if evaluation.max_prompts is None
        else min(evaluation.max_prompts, loader.num_examples)
    )
    like_training = max(
        1, config.training.batch_size * setup.group_size // max(evaluation.samples, 1)
    )
    per_batch = min(count, config.training.eval_batch_size or like_training)
    per_batch = -(-per_batch // setup.shards) * setup.shards
    temperature = (
        config.algorithm.temperature if evaluation.temperature is None else evaluation.temperature
    )
    top_p = config.rollout.top_p if evaluation.top_p is None else evaluation.top_p
    sampling = SamplingParams(temperature, top_p, config.rollout.top_k, config.rollout.min_p)
    greedy: list[Answers] = []
    sampled: list[Answers] = []
    shown: list[Any] = []
    key = jax.random.fold_in(jax.random.key(seed), 4)
    for start in range(0, count, per_batch):
        indices = np.arange(start, min(start + per_batch, count))
        # one shape for all batches; the repeated ones are dropped
        prompts = loader.take(np.resize(indices, per_batch))
        real = len(indices)
        if stopped():
            return HeldOut({}, stopped=True)
        greedy.append(_greedy(setup, params, prompts, real))
        if stopped():
            return HeldOut({}, stopped=True)
        if evaluation.samples:
            keys = sample_keys(key, prompts.indices, evaluation.samples)
            sampled.append(_sampled(setup, params, prompts, real, keys=keys, sampling=sampling))
        shown += [content_of(prompt) for prompt in prompts.prompts[:real]]
    first, several = join_answers(greedy), join_answers(sampled) if sampled else None
    samples = [_columns(setup.grader.names, shown, first, greedy=True)]
    if several is not None:
        samples.append(_columns(setup.grader.names, shown, several, greedy=False))
    return HeldOut(metrics_of(setup.grader.held_out, first, several), tuple(samples))


def sample_keys(key: Key, indices: np.ndarray, samples: int) -> Key:
    """A key for every sample of every prompt, from the prompt's index and the sample's number: [P *
    samples]."""
    prompts, numbers = np.repeat(indices, samples), np.tile(np.arange(samples), len(indices))
    of_prompts = jax.vmap(jax.random.fold_in, (None, 0))(key, prompts)
    return jax.vmap(jax.random.fold_in)(of_prompts, numbers)


def _greedy(setup: OnlineSetup, params: Params, prompts: PromptBatch, real: int) -> Answers:
    """One completion per prompt."""
    rollout, _ = setup.sample_greedy(
        params, prompts, jax.random.key(0), SamplingParams(temperature=0.0)
    )
    return _answers(setup.grader.grade(prompts, rollout, real=real), rollout, real)


def _sampled(
    setup: OnlineSetup,
    params: Params,
    prompts: PromptBatch,
    real: int,
    *,
    keys: Key,
    sampling: SamplingParams,
) -> Answers:
    """k completions per prompt, drawn with a key each."""
    rollout, _ = setup.sample_held_out(params, prompts, keys, sampling)
    return _answers(setup.grader.grade(prompts, rollout, real=real), rollout, real)


def _answers(grades: Grades, rollout: Rollout, real: int) -> Answers:
    """The first `real` prompts' completions, one row a prompt."""
    rows = len(grades.total)

    def grouped(x: Any) -> np.ndarray:
        x = np.asarray(x)[:rows]
        return x.reshape(real, -1, *x.shape[1:])

    length = grouped(np.asarray(rollout.completion_mask).sum(1))
    return Answers(
        grouped(grades.total),
        grouped(grades.parts),
        length,
        grouped(rollout.truncated),
        grades.texts,
        grouped(grades.opened),
        grades.failures,
        {} if grades.scores is None else grades.scores.extra,
        {}
        if grades.scores is None
        else {name: [value] for name, value in grades.scores.metrics.items()},
    )


def _columns(
    names: Sequence[str], shown: Sequence[Any], answers: Answers, *, greedy: bool
) -> dict[str, list[Any]]:
    """Completions as columns for the files and the log."""
    prompts, size = answers.total.shape
    columns: dict[str, list[Any]] = {
        "split": ["eval"] * (prompts * size),
        "sample": [GREEDY if greedy else number for _ in range(prompts) for number in range(size)],
        "kept": [False] * (prompts * size),
        "prompt_index": np.repeat(np.arange(prompts), size).tolist(),
        "prompt": [prompt for prompt in shown for _ in range(size)],
        "completion": list(answers.texts),
    }
    columns |= {
        name: answers.parts[..., index].reshape(-1).tolist() for index, name in enumerate(names)
    }
    return columns | {
        "reward": answers.total.reshape(-1).tolist(),
        "tokens": answers.length.reshape(-1).tolist(),
        "truncated": answers.truncated.reshape(-1).tolist(),
        **answers.extra,
    }
