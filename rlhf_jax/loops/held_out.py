"""Evaluation: of a loss over held-out examples, and of the answers to held-out prompts.

Neither knows an algorithm's configuration: the first takes the algorithm's functions, the second a
sampler and a grader.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from rlhf_jax.data import Loader, PromptBatch, PromptLoader
from rlhf_jax.io import GREEDY
from rlhf_jax.loops.grading import Grader, Grades, check_agreement
from rlhf_jax.rewards import TrainerState
from rlhf_jax.rewards.accuracy import Answers, join_answers, metrics_of, verdicts_of
from rlhf_jax.rewards.answers import content_of
from rlhf_jax.rollout import Sampled, Sampler, SamplingParams
from rlhf_jax.sharding import fetch, place_batch
from rlhf_jax.training import Assemble, union
from rlhf_jax.training.step import make_filled
from rlhf_jax.training.update import over_parts
from rlhf_jax.types import Algorithm, Key, Metrics, Params, Rollout, Trees

EvalStep = Callable[[Trees, Trees, Any], tuple[Metrics, Any]]
SEQUENCE_KL = "kl/ref_sequence"
LogRatios = Callable[[Rollout], np.ndarray]
"""Completions -> log-probability under the policy that sampled them less that under a fixed model,
nats each."""


def make_eval_step(algorithm: Algorithm, *, assemble: Assemble = union) -> EvalStep:
    """(trained, frozen, batch) -> (metrics of the batch, number of elements they are the mean of).

    Pure; jit it. The elements are `Algorithm.elements`.
    """
    filled = make_filled(algorithm, assemble=assemble)

    def eval_step(trained: Trees, frozen: Trees, batch: Any) -> tuple[Metrics, Any]:
        batch = filled(batch, trained, frozen)
        batch, _, prepared = algorithm.prepare(batch, dict(algorithm.aux))
        batch = algorithm.weigh(batch)
        trees = assemble(trained, frozen)

        def of_part(part: Any, key: Key) -> tuple[Any, Metrics, tuple[()]]:
            return *algorithm.loss(trees, part, key), ()

        key = jax.random.key(0)
        packed = getattr(batch, "room", None) is not None
        loss, metrics, _ = over_parts(of_part, batch, key)[0] if packed else of_part(batch, key)
        return prepared | metrics | {"loss/total": loss}, algorithm.elements(batch)

    return eval_step


def evaluate_loader(
    eval_step: EvalStep,
    trained: Trees,
    frozen: Trees,
    loader: Loader,
    *,
    mesh: Mesh,
    batch_size: int,
    cached: Mapping[str, np.ndarray],
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Every example of a loader once; the mean of each metric over all weighted elements.

    Args:
      eval_step: from `make_eval_step`, jitted.
      trained: trained trees by role.
      frozen: the other trees that the loss reads.
      loader: held-out examples.
      mesh: the device mesh.
      batch_size: rows per forward pass.
      cached: field -> value of every example, of `Algorithm.cached`.
      stopped: whether a signal asked to stop; asked before every batch.

    Returns:
      Metric name -> value. Keys that end in _max or _min are reduced by max and min, all others by
      the mean. Nothing when stopped.
    """
    found: list[dict[str, float]] = []
    counts: list[Mapping[str, Any]] = []
    for indices, batch in loader.sequential(batch_size):
        if stopped():
            return {}
        placed = place_batch(with_cached(batch, indices, cached), mesh)
        metrics, count = fetch(eval_step(trained, frozen, placed))
        count = count if isinstance(count, Mapping) else {"": count}
        if count[""]:
            found.append({name: float(value) for name, value in metrics.items()})
            counts.append(count)
    if not found:
        raise ValueError("the evaluation set holds nothing to score: every row is empty")
    return {
        name: _combine(
            name, [part[name] for part in found], [int(each.get(name, each[""])) for each in counts]
        )
        for name in found[0]
    }


def with_cached(batch: Any, indices: np.ndarray, cached: Mapping[str, np.ndarray]) -> Any:
    """A batch with the cached fields of its examples; filler rows (index -1) get 0."""
    fields = {}
    for name, values in cached.items():
        real = (indices >= 0).reshape(-1, *(1,) * (values.ndim - 1))
        fields[name] = np.where(real, values[np.maximum(indices, 0)], values.dtype.type(0))
    return batch._replace(**fields)


def _combine(name: str, values: list[float], counts: list[int]) -> float:
    if name.endswith("_max"):
        return max(values)
    if name.endswith("_min"):
        return min(values)
    # What a batch holds nothing of, it has no mean of either.
    known = [(value, count) for value, count in zip(values, counts, strict=True) if count]
    if not known:
        return float("nan")
    return float(np.average([value for value, _ in known], weights=[count for _, count in known]))


class HeldOut(NamedTuple):
    """Metrics of an evaluation and the completions that they come from."""

    metrics: dict[str, float]
    samples: tuple[dict[str, list[Any]], ...] = ()
    """Columns of the completion files, of the greedy completions and of the sampled ones."""
    right: tuple[list[bool | None], ...] = ()
    """Of the same, whether each is right; None: nobody says."""


class HeldOutPrompts(NamedTuple):
    """What held-out prompts are asked with."""

    prompts: PromptLoader
    number: int
    """Prompts used, the first ones."""
    per_batch: int
    """Prompts at a time."""
    samples: int
    """Sampled completions per prompt, k; 0: greedy ones only."""
    sampling: SamplingParams
    """Of the sampled completions."""
    seed: int
    """Of the samples. What is drawn depends on it, the prompt's place in the split and the number
    of the sample alone: evaluations of a run differ by the policy, and neither batch size nor mesh
    nor the number of samples changes them."""
    log_ratios: LogRatios | None = None
    """Of sampled completions under the policy and a fixed model; None: no KL is measured."""


def evaluate_prompts(
    params: Params,
    held_out: HeldOutPrompts,
    *,
    sampler: Sampler,
    grader: Grader,
    state: TrainerState,
    stopped: Callable[[], bool] = lambda: False,
) -> HeldOut:
    """Completes held-out prompts greedily and k times at the sampling temperature.

    Args:
      params: the policy's parameters.
      held_out: prompts and how they are asked.
      sampler: completes them.
      grader: grades the completions.
      state: where training is, for reward functions that ask.
      stopped: whether a signal asked to stop; asked between generation batches.

    Returns:
      Metrics rewards/greedy and rewards/sampled (mean total reward of what was graded),
      rewards/ungraded and rewards/failed/NAME/KIND of the greedy completions,
      rewards/ungraded_sampled and rewards/failed_sampled/NAME/KIND of the sampled ones,
      rewards/NAME and rewards/NAME_sampled (mean of each, where there are several),
      rewards/NAME/METRIC and rewards/NAME/METRIC_sampled (means of what reward functions log by
      `log_metric`), length/greedy, length/truncated_greedy; where a reward says right or wrong also
      accuracy/greedy, accuracy/mean@k (share of right samples), accuracy/pass@k (share of prompts
      with a right sample) and accuracy/maj@k (share whose most frequent answer is right), each over
      what was judged; with `log_ratios` also kl/ref_sequence, their mean over the sampled
      completions, which estimates the KL from the fixed model; nothing when stopped.
    """
    greedy: list[Answers] = []
    sampled: list[Answers] = []
    ratios: list[np.ndarray] = []
    shown: list[Any] = []
    key = jax.random.fold_in(jax.random.key(held_out.seed), 4)
    greedy_params = SamplingParams(temperature=0.0)

    def asked(
        prompts: PromptBatch, key: Key, size: int, params_of: SamplingParams, real: int
    ) -> tuple[Rollout, Answers]:
        found = sampler(params, prompts, key, group_size=size, sampling=params_of)
        # The repeated prompts only completed a shape: they are neither graded nor counted.
        own = first_prompts(prompts, real)
        kept = first_rows(found, real * size)
        grades = grader(own, kept, state=state, training=False)
        # By them each process decides which checkpoint is best.
        check_agreement(kept.rollout, grades)
        return kept.rollout, answers(grades, kept, real)

    for start in range(0, held_out.number, held_out.per_batch):
        indices = np.arange(start, min(start + held_out.per_batch, held_out.number))
        real = len(indices)
        # One shape for all batches.
        prompts = held_out.prompts.take(np.resize(indices, held_out.per_batch))
        if stopped():
            return HeldOut({})
        greedy.append(asked(prompts, jax.random.key(0), 1, greedy_params, real)[1])
        if stopped():
            return HeldOut({})
        if held_out.samples:
            keys = sample_keys(key, prompts.indices, held_out.samples)
            rollout, found = asked(prompts, keys, held_out.samples, held_out.sampling, real)
            sampled.append(found)
            if held_out.log_ratios is not None:
                ratios.append(held_out.log_ratios(rollout))
        shown += [content_of(prompt) for prompt in prompts.prompts[:real]]
    first = join_answers(greedy)
    several = join_answers(sampled) if sampled else None
    samples = [answer_columns(grader.names, shown, first, greedy=True)]
    if several is not None:
        samples.append(answer_columns(grader.names, shown, several, greedy=False))
    judged = [one for one in (first, several) if one is not None]
    right = tuple(verdict.told() for verdict in verdicts_of(grader.held_out, judged))
    metrics = metrics_of(grader.held_out, first, several)
    if ratios:
        metrics[SEQUENCE_KL] = float(np.concatenate(ratios).mean(dtype=np.float64))
    return HeldOut(metrics, tuple(samples), right)


def sample_keys(key: Key, indices: np.ndarray, samples: int) -> Key:
    """A key for every sample of every prompt, from the prompt's index and the sample's number:
    [P * samples]."""
    prompts = np.repeat(indices, samples)
    numbers = np.tile(np.arange(samples), len(indices))
    of_prompts = jax.vmap(jax.random.fold_in, (None, 0))(key, prompts)
    return jax.vmap(jax.random.fold_in)(of_prompts, numbers)


def first_prompts(prompts: PromptBatch, count: int) -> PromptBatch:
    """The first ones of some prompts."""
    columns = {name: values[:count] for name, values in prompts.columns.items()}
    return PromptBatch(
        prompts.indices[:count],
        prompts.tokens[:count],
        prompts.lengths[:count],
        prompts.prompts[:count],
        columns,
    )


def first_rows(sampled: Sampled, rows: int) -> Sampled:
    """The first completions."""
    arrays: list[Any] = [np.asarray(x)[:rows] for x in sampled.rollout]
    rollout = Rollout(*arrays)
    conversations = sampled.conversations
    return sampled._replace(
        rollout=rollout, conversations=None if conversations is None else conversations[:rows]
    )


def answers(grades: Grades, sampled: Sampled, prompts: int) -> Answers:
    """Graded completions, one row a prompt."""

    def grouped(x: Any) -> np.ndarray:
        x = np.asarray(x)
        return x.reshape(prompts, -1, *x.shape[1:])

    return Answers(
        grouped(grades.total),
        grouped(grades.per_reward),
        grouped(np.asarray(sampled.rollout.completion_mask).sum(1)),
        grouped(sampled.rollout.truncated),
        grades.texts,
        grouped(grades.opened),
        dict(grades.failures),
        grades.extra,
        {name: [value] for name, value in grades.logged.items()},
    )


def answer_columns(
    names: Sequence[str], shown: Sequence[Any], found: Answers, *, greedy: bool
) -> dict[str, list[Any]]:
    """Completions as columns for the files and the log."""
    prompts, size = found.total.shape
    columns: dict[str, list[Any]] = {
        "split": ["eval"] * (prompts * size),
        "sample": [GREEDY if greedy else number for _ in range(prompts) for number in range(size)],
        "kept": [False] * (prompts * size),
        "prompt_index": np.repeat(np.arange(prompts), size).tolist(),
        "prompt": [prompt for prompt in shown for _ in range(size)],
        "completion": list(found.texts),
    }
    for place, name in enumerate(names):
        columns[name] = found.per_reward[..., place].reshape(-1).tolist()
    return columns | {
        "reward": found.total.reshape(-1).tolist(),
        "tokens": found.length.reshape(-1).tolist(),
        "truncated": found.truncated.reshape(-1).tolist(),
        **found.extra,
    }
