"""Filling a training batch: prompts are drawn, completed and graded until there are enough groups
worth training on (DAPO's dynamic sampling).

`Collector.__call__` is read from top to bottom; `at_cap` says what happens when the groups do not
come; the rest turns one generation batch into groups, counts and columns.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from rlhf_jax.data import PromptLoader
from rlhf_jax.data.prompts import next_prompts
from rlhf_jax.errors import TrainingError
from rlhf_jax.io.completions import GroupId
from rlhf_jax.loops.grading import Grader, Grades, check_agreement, sums_of
from rlhf_jax.loops.groups import Cursor, Groups, Rollouts, empty_groups, from_rollout, join
from rlhf_jax.rewards import TrainerState
from rlhf_jax.rewards.answers import content_of
from rlhf_jax.rewards.judging import Tasks
from rlhf_jax.rollout import Sampler
from rlhf_jax.types import Params, Sampling

_log = logging.getLogger(__name__)
SOLVED = 0.9
"""Share of the groups generated that must be judged, and all right, for the task to be called
solved."""
ALL_RIGHT = "data/groups_all_right"
ALL_WRONG = "data/groups_all_wrong"
ALIKE = "data/groups_alike"
"""Dropped where a reward model judges, and nothing is right or wrong."""

Ended = Literal["stopped", "retired", "solved"]
"""Why a run ends: a signal; every prompt is retired; everything generated is right."""

Record = Callable[[dict[str, list[Any]]], None]
"""Takes the columns of a generation batch (`rlhf_jax.io.CompletionsWriter.add`)."""


class Collected(NamedTuple):
    """What a `Collector` brings back."""

    groups: Groups | None
    """A full training batch (filled up with empty groups at the cap); None: nothing to train on in
    this step."""
    rest: Rollouts
    """The state of sampling afterwards."""
    metrics: dict[str, float]
    ended: Ended | None = None
    """Why there are no groups, now or ever; None: the batch is there, or the step is left out."""
    trained: tuple[GroupId, ...] = ()
    """Which groups are in the batch."""


class Filtered(NamedTuple):
    """What is worth training on of a generation batch."""

    keep: np.ndarray
    """bool [N]."""
    retired: tuple[int, ...]
    """All prompts retired by now."""
    unjudged: int
    """Groups that are graded, of which nothing says what is right."""
    counters: dict[str, float]
    right: list[bool | None]


@dataclass(kw_only=True)
class Collector:
    """Everything between prompts and a batch of groups. State goes in and comes out."""

    prompts: PromptLoader
    sampler: Sampler
    grader: Grader
    sampling: Sampling
    batch_size: int
    """Groups of a training batch."""
    prompts_per_batch: int
    """Prompts of a generation batch."""
    seed: int
    total_steps: int
    num_epochs: int
    run_dir: str
    """For messages."""
    record: Record = lambda columns: None
    """Takes the completions as they are generated."""
    told_unjudged: bool = field(default=False, init=False)
    """A warning was given about groups that no judge grades."""
    latest: tuple[dict[str, list[Any]], list[bool | None]] | None = field(default=None, init=False)
    """Columns of the last generation batch, and which of it is right: to be shown."""

    def filler(self, count: int) -> Groups:
        """Empty groups of the run's shape."""
        return empty_groups(
            count,
            group_size=self.sampling.group_size,
            width=self.sampler.width,
            num_rewards=len(self.grader.names),
        )

    def begin(self) -> Rollouts:
        """The state of a run that has sampled nothing yet."""
        return Rollouts(Cursor(), self.filler(0))

    def __call__(
        self, params: Params, rollouts: Rollouts, *, step: int, stopped: Callable[[], bool]
    ) -> Collected:
        """Generates until a training batch is full.

        With `Sampling.keep` only groups that are worth training on count, judged before any
        penalty. Groups beyond the batch are carried over and are the first of the next one.

        Args:
          params: the policy's parameters.
          rollouts: where sampling is.
          step: training steps made so far.
          stopped: whether a signal asked to stop; asked between generation batches. What has been
            collected by then is in `rest`, nothing is lost.

        Returns:
          A `Collected`.

        Raises:
          TrainingError: the cap is reached and the batch is not full, with on_cap=raise, or there
            is not one group to train on (unless all are right, or with on_cap=skip).
        """
        cursor, groups = rollouts
        cap = self.sampling.max_generation_batches
        if not cursor.counters:
            cursor = cursor._replace(counters={"data/groups_carried": float(groups.size)})
        while groups.size < self.batch_size:
            # Asked before every generation batch: a refill may take long, and what it has found is
            # in the state that is handed back.
            if stopped():
                return Collected(None, Rollouts(cursor, groups), {}, "stopped")
            if cap is not None and cursor.counters.get("data/generation_batches", 0) >= cap:
                decision = at_cap(self, cursor.counters, groups.size)
                if decision == "solved":
                    return Collected(None, Rollouts(cursor, groups), {}, "solved")
                if decision == "skip":
                    cursor = cursor._replace(skipped=cursor.skipped + 1)
                    metrics = self._metrics(cursor, groups, 0)
                    rest = Rollouts(cursor._replace(counters={}), groups)
                    return Collected(None, rest, metrics)
                break
            indices, passed = self._draw(cursor)
            if not len(indices):
                if groups.size:
                    break
                return Collected(None, Rollouts(cursor, groups), {}, "retired")
            found, cursor = self._generate(params, indices, cursor, passed=passed, step=step)
            groups = join(groups, found)
        batch = groups.take(slice(None, self.batch_size))
        left = groups.take(slice(self.batch_size, None))
        metrics = self._metrics(cursor, left, batch.size)
        trained = cursor.carried[: self.batch_size]
        if batch.size < self.batch_size:
            batch = join(batch, self.filler(self.batch_size - batch.size))
        # Counters are of one batch; the groups that are left keep their names.
        cursor = cursor._replace(counters={}, carried=cursor.carried[self.batch_size :])
        return Collected(batch, Rollouts(cursor, left), metrics, trained=trained)

    def state(self, step: int, cursor: Cursor) -> TrainerState:
        """What reward functions that ask for TRL's `trainer_state` are told."""
        return TrainerState(
            global_step=step,
            max_steps=self.total_steps,
            epoch=cursor.passed / self.prompts.num_examples,
            num_train_epochs=self.num_epochs,
        )

    def _draw(self, cursor: Cursor) -> tuple[np.ndarray, int]:
        """The next prompts that are not retired, and the place after them.

        None when all are retired, or when the others have all been asked for the batch that is
        being filled and it has groups: asking them again would fill it with few prompts, so it ends
        with these.
        """
        if cursor.retired:
            left = self.prompts.num_examples - len(cursor.retired)
            counters = cursor.counters
            found = counters.get("data/groups_carried", 0.0) + counters.get("data/groups_kept", 0.0)
            if found and counters.get("data/groups_generated", 0.0) >= left:
                return np.zeros(0, np.int64), cursor.passed
        return next_prompts(
            self.prompts, cursor.passed, self.prompts_per_batch, retired=cursor.retired
        )

    def _generate(
        self, params: Params, indices: np.ndarray, cursor: Cursor, *, passed: int, step: int
    ) -> tuple[Groups, Cursor]:
        """One generation batch: completions of some prompts, graded, and those worth keeping."""
        began = time.perf_counter()
        prompts = self.prompts.take(indices)
        # A key per generation batch, from the seed alone: a resumed run draws the same.
        key = jax.random.fold_in(jax.random.key(self.seed), 3)
        key = jax.random.fold_in(key, cursor.num_batches)
        sampled = self.sampler(params, prompts, key, group_size=self.sampling.group_size)
        generated = time.perf_counter()
        grades = self.grader(prompts, sampled, state=self.state(step, cursor), training=True)
        graded = time.perf_counter()
        check_agreement(sampled.rollout, grades)
        groups = from_rollout(
            sampled.rollout,
            prompt=indices,
            prompt_length=prompts.lengths,
            width=self.sampler.width,
            rewards=grades.total,
            per_reward=grades.per_reward,
            step=step,
        )
        tasks = self.grader.judge.learn(groups.rewards, groups.per_reward, cursor.tasks)
        kept = self._filter(groups, tasks, cursor.retired)
        columns = self._columns(prompts.prompts, grades, groups)
        self.record(columns | self._fate(kept.keep, batch=cursor.num_batches, step=step))
        self.latest = (columns, kept.right)
        self._warn_unjudged(kept.unjudged)
        times = {"time/generate": generated - began, "time/reward": graded - generated}
        counts = sums_of(self.grader.names, grades, sampled, groups=groups.size)
        added = counts | times | kept.counters
        names = [(cursor.num_batches, int(group)) for group in np.flatnonzero(kept.keep)]
        cursor = cursor._replace(
            passed=passed,
            num_batches=cursor.num_batches + 1,
            counters={
                name: cursor.counters.get(name, 0.0) + added.get(name, 0.0)
                for name in cursor.counters | added
            },
            retired=kept.retired,
            tasks=tasks,
            carried=cursor.carried + tuple(names),
        )
        return groups.take(kept.keep), cursor

    def _filter(self, groups: Groups, tasks: Tasks, retired: tuple[int, ...]) -> Filtered:
        """Which groups are worth training on: by what is graded and judged of them."""
        judge = self.grader.judge
        verdict = judge.correct(groups.rewards, groups.per_reward, tasks)
        right, judged = verdict
        graded = ~np.isnan(groups.rewards)
        valid = judged & graded
        number = valid.sum(1)
        hits = (right & valid).sum(1)
        keep = np.ones(groups.size, bool)
        if self.sampling.keep is not None:
            keep = np.asarray(self.sampling.keep(judge.better(groups.rewards, verdict), valid))
        rate = self.sampling.retire_pass_rate
        if rate is not None and judge.says:
            solved = (number == self.sampling.group_size) & (hits >= rate * number)
            retired = tuple(sorted({*retired, *groups.prompt[solved].tolist()}))
        unjudged = graded.any(1) & (number == 0)
        counters = {
            "data/groups_kept": float(keep.sum()),
            "data/groups_unjudged": float(unjudged.sum()),
            "data/groups_ungraded": float(((number == 0) & ~unjudged).sum()),
            "right": float(right.sum()),
            "judged": float(judged.sum()),
        }
        if judge.says:
            counters[ALL_RIGHT] = float(((hits == number) & (hits > 0)).sum())
            counters[ALL_WRONG] = float(((hits == 0) & (number > 0)).sum())
        elif self.sampling.keep is not None:
            counters[ALIKE] = float((~keep & (number > 0)).sum())
        return Filtered(keep, retired, int(unjudged.sum()), counters, verdict.told())

    def _warn_unjudged(self, groups: int) -> None:
        """Says once that groups are thrown away which rewards have graded."""
        if not groups or self.sampling.keep is None or self.told_unjudged:
            return
        self.told_unjudged = True
        judge = self.grader.judge
        judges = ", ".join(self.grader.names[index] for index in judge.judges)
        _log.warning(
            "%d groups of a generation batch are left out of training (metric data/"
            "groups_unjudged): rewards have graded them, but none that says right or wrong, which "
            "is %s; name the verifier of every task in algorithm.accuracy_reward=[%s, ...]",
            groups,
            judges,
            judges,
        )

    def _metrics(self, cursor: Cursor, rest: Groups, trained: int) -> dict[str, float]:
        """What filling a batch cost, from the sums over its generation batches."""
        counters = cursor.counters
        prefixes = ("data/", "rewards/", "time/")
        metrics = {name: value for name, value in counters.items() if name.startswith(prefixes)}
        metrics |= {
            "data/groups_trained": float(trained),
            "data/groups_left": float(rest.size),
            "data/epoch": cursor.passed / self.prompts.num_examples,
        }
        counts = {"data/steps_skipped": cursor.skipped, "data/prompts_retired": len(cursor.retired)}
        metrics |= {name: float(number) for name, number in counts.items() if number}
        generated = counters.get("data/groups_generated", 0.0)
        if not generated:
            return metrics
        tokens = counters["tokens"]
        metrics |= {
            "data/tokens_generated": tokens,
            "data/sampling_waste": 1.0 - counters["data/groups_kept"] / generated,
            "sampler/utilisation": tokens / max(counters["slot_steps"], 1.0),
            "sampler/tokens_per_second": tokens / max(counters["time/generate"], 1e-9),
        }
        if self.grader.judge.says and counters["judged"]:
            metrics["data/accuracy"] = counters["right"] / counters["judged"]
        for name, number in counters.items():
            if name.startswith("count/") and number:
                label = name.removeprefix("count/")
                metrics[f"rewards/{label}"] = counters[f"sum/{label}"] / number
        return metrics

    def _columns(self, prompts: list[Any], grades: Grades, groups: Groups) -> dict[str, list[Any]]:
        """Completions as columns for the files and the log."""
        size = self.sampling.group_size
        columns: dict[str, list[Any]] = {
            "prompt_index": np.repeat(groups.prompt, size).tolist(),
            "prompt": [content_of(prompt) for prompt in prompts for _ in range(size)],
            "completion": list(grades.texts),
            "reward": groups.rewards.reshape(-1).tolist(),
        }
        for place, name in enumerate(self.grader.names):
            columns[name] = groups.per_reward[..., place].reshape(-1).tolist()
        columns["tokens"] = groups.completion_mask.sum(-1).reshape(-1).tolist()
        columns["truncated"] = groups.truncated.reshape(-1).tolist()
        return columns | grades.extra

    def _fate(self, keep: np.ndarray, *, batch: int, step: int) -> dict[str, list[Any]]:
        """What the run made of a generation batch, per completion."""
        size = self.sampling.group_size
        rows = len(keep) * size
        return {
            "step": [step + 1] * rows,
            "split": ["train"] * rows,
            "sample": [row % size for row in range(rows)],
            "kept": np.repeat(keep, size).tolist(),
            "generation_batch": [batch] * rows,
        }


def at_cap(
    collector: Collector, counters: Mapping[str, float], found: int
) -> Literal["train", "skip", "solved"]:
    """What happens at the cap of generation batches.

    Args:
      collector: of the run.
      counters: sums over the generation batches.
      found: groups worth training on.

    Returns:
      train: on the groups that were found; skip: leave the step out; solved: everything is right,
      the run ends.

    Raises:
      TrainingError: on_cap=raise, or there is nothing to train on.
    """
    sampling = collector.sampling
    generated = counters["data/groups_generated"]
    says = collector.grader.judge.says
    all_right = counters.get(ALL_RIGHT, 0)
    if says:
        wanted = "a right and a wrong answer"
        others = f"{counters.get(ALL_WRONG, 0):.0f} are all wrong, {all_right:.0f} all right, "
    else:
        wanted = "rewards that differ"
        others = f"{counters.get(ALIKE, 0):.0f} have one reward, "
    message = (
        f"after {sampling.max_generation_batches} generation batches "
        f"(algorithm.max_generation_batches) {found} of {collector.batch_size} groups have "
        f"{wanted}: of {generated:.0f} generated, {others}"
        f"{counters['data/groups_ungraded']:.0f} not graded and "
        f"{counters['data/groups_unjudged']:.0f} graded but not judged"
    )
    if sampling.on_cap == "skip":
        _log.warning("%s; this step is left out (algorithm.on_cap=skip)", message)
        return "skip"
    is_solved = not counters.get(ALL_WRONG) and all_right >= SOLVED * generated
    if says and not found and is_solved:
        _log.info("%s: the task is solved, the run ends here", message)
        return "solved"
    if sampling.on_cap == "raise" or not found:
        raise TrainingError(
            f"{message}; the same command goes on with algorithm.on_cap=skip, a larger "
            "algorithm.max_generation_batches or algorithm.dynamic_sampling=false; for other "
            "prompts, another accuracy_reward or a larger algorithm.group_size start a new run "
            f"from what was learnt: rlhf-jax export {collector.run_dir} FOLDER, then "
            "model.path=FOLDER run_dir=NEW"
        )
    _log.warning("%s; training on those", message)
    return "train"
