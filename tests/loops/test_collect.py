"""Filling a training batch from groups made by hand: which are kept, what happens at the cap, what
a checkpoint holds."""

import dataclasses
import json
from typing import NamedTuple

import jax
import numpy as np
import pytest

from rlhf_jax.config import Config
from rlhf_jax.data import PromptBatch
from rlhf_jax.errors import TrainingError
from rlhf_jax.loops.collect import Collector
from rlhf_jax.loops.grading import Grader, Grades
from rlhf_jax.loops.groups import Cursor, Rollouts, join
from rlhf_jax.rewards import RewardConfig
from rlhf_jax.rewards.judging import make_judge
from rlhf_jax.rollout import GenerationStats, Sampled, Sampler
from rlhf_jax.types import Rollout
from tests.loops.conftest import ONLINE

NAN = float("nan")
KINDS = {
    "mixed": [[1, NAN], [0, NAN]],
    "right": [[1, NAN], [1, NAN]],
    "wrong": [[0, NAN], [0, NAN]],
    "failed": [[NAN, NAN], [NAN, NAN]],
    "code mixed": [[NAN, 1], [NAN, 0]],
    "code right": [[NAN, 1], [NAN, 1]],
}
"""Rewards (maths, code) of the two completions of a group."""


WIDTH = 4


class Prompts:
    """Eight prompts in their order."""

    num_examples = 8

    def order(self, epoch):
        return np.arange(self.num_examples)

    def indices(self, start, count):
        return np.arange(start, start + count) % self.num_examples

    def take(self, indices):
        count = len(indices)
        tokens, lengths = np.zeros((count, 2), np.int32), np.full(count, 2, np.int32)
        return PromptBatch(np.asarray(indices), tokens, lengths, ["p"] * count, {})


class Completes:
    """Completions of two tokens, all the same; remembers the keys that it was given."""

    width, max_scored = WIDTH, 2

    def __init__(self):
        self.keys = []

    def __call__(self, params, prompts, key, *, group_size, sampling=None):
        self.keys.append(jax.random.key_data(key).tolist())
        rows = len(prompts.lengths) * group_size
        zeros, mask = np.zeros((rows, WIDTH)), np.ones((rows, WIDTH), bool)
        chosen = mask & (np.arange(WIDTH) >= 2)
        rollout = Rollout(
            zeros.astype(np.int32), mask, chosen, zeros.astype(np.float32), ~mask[:, 0]
        )
        return Sampled(rollout, GenerationStats(1, 1, 1.0, 0.0))


class ByKind:
    """The kinds of groups that a test lists, batch by batch."""

    def __init__(self, rewards, judge, batches, form):
        self.names = tuple(reward.label for reward in rewards)
        self.judge = self.held_out = judge
        self._batches = iter(batches)
        self._form = form
        self._made = 0

    def __call__(self, prompts, sampled, *, state, training):
        assert training
        per_reward = np.array([KINDS[kind] for kind in next(self._batches)], np.float32)
        per_reward = per_reward.reshape(-1, 2)
        if self._form is not None:
            per_reward[:, 1] = self._form
        nothing = np.isnan(per_reward).all(-1)
        total = np.where(nothing, NAN, np.nansum(per_reward, -1)).astype(np.float32)
        texts = [f"{self._made}:{row}" for row in range(len(total))]
        self._made += 1
        return Grades(total, per_reward, {}, texts, np.zeros(len(total), bool))


class Run(NamedTuple):
    """A collector, and the configuration that it is of."""

    collector: Collector
    config: Config


@pytest.fixture
def run(online_config):
    """(batches of kinds of groups, **options of DAPO) -> `Run`."""

    def build(
        batches,
        *,
        size=2,
        form=None,
        function="exact_match",
        record=lambda columns: None,
        **options,
    ):
        names = ("maths", "code") if form is None else ("maths", "form")
        rewards = tuple(RewardConfig(function=function, name=name) for name in names)
        algorithm = dataclasses.replace(ONLINE["dapo"], group_size=2, **options)
        config = online_config(
            "dapo", algorithm=algorithm, rewards=rewards, training={"batch_size": size}
        )
        sampling = config.resolved_algorithm.sampling
        sampler = Completes()
        grader = ByKind(rewards, make_judge(rewards, sampling.accuracy_reward), batches, form)
        assert isinstance(sampler, Sampler) and isinstance(grader, Grader)
        collector = Collector(
            prompts=Prompts(),
            sampler=sampler,
            grader=grader,
            sampling=sampling,
            batch_size=size,
            prompts_per_batch=len(batches[0]),
            seed=0,
            total_steps=9,
            num_epochs=1,
            run_dir=config.run_dir,
            record=record,
        )
        return Run(collector, config)

    return build


def collected(run, rollouts=None, *, step=0):
    rollouts = run.collector.begin() if rollouts is None else rollouts
    return run.collector({}, rollouts, step=step, stopped=lambda: False)


def test_both_tasks_are_trained_on(run, caplog):
    """Each verifier abstains from the other's rows."""
    found = collected(run([["mixed", "code mixed", "code right", "mixed"]], size=3))
    per_reward = found.groups.per_reward
    assert np.isnan(per_reward[..., 1]).all(1).tolist() == [True, False, True]
    assert (
        found.metrics["data/groups_all_right"] == 1 and found.metrics["data/groups_unjudged"] == 0
    )
    assert found.metrics["data/accuracy"] == 5 / 8 and not caplog.records


def test_a_reward_for_form_judges_nothing_and_that_is_said(run, caplog):
    batches = [["mixed", "code mixed", "mixed"], ["code mixed", "mixed", "mixed"]]
    found = collected(run(batches, size=3, form=1.0))
    assert found.metrics["data/groups_unjudged"] == 2 and found.metrics["data/groups_kept"] == 4
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1  # once, not for every batch
    assert (
        "1 groups of a generation batch are left out of training (metric data/groups_unjudged)"
        in warnings[0]
    )
    assert "algorithm.accuracy_reward=[maths, ...]" in warnings[0]


def test_everything_generated_is_recorded(run):
    """Also the groups that are dropped, those of every generation batch, and which are kept."""
    tables = []
    batches = [["wrong", "mixed"], ["right", "right"], ["mixed", "mixed"]]
    found = collected(run(batches, record=tables.append), step=4)
    assert [table["completion"] for table in tables] == [
        [f"{draw}:{row}" for row in range(4)] for draw in range(3)
    ]
    assert [table["kept"] for table in tables] == [
        [False, False, True, True],
        [False] * 4,
        [True] * 4,
    ]
    assert {step for table in tables for step in table["step"]} == {5}
    assert [table["generation_batch"][0] for table in tables] == [0, 1, 2] and tables[0][
        "sample"
    ] == [0, 1, 0, 1]
    assert found.trained == ((0, 1), (2, 0)) and found.rest.cursor.carried == ((2, 1),)


def test_groups_carried_over_keep_their_names_through_a_checkpoint(run):
    made = run([["mixed", "mixed", "mixed"], ["mixed", "wrong", "mixed"]])
    first = collected(made)
    cursor = Cursor.of(json.loads(json.dumps(first.rest.cursor.plain())))
    assert cursor == first.rest.cursor
    second = collected(made, Rollouts(cursor, first.rest.groups), step=1)
    assert second.trained == ((0, 2), (1, 0)) and second.rest.cursor.carried == ((1, 2),)


def test_a_batch_has_a_key_of_its_own_and_a_resumed_run_the_same(run):
    batches = [["mixed", "wrong"], ["mixed", "mixed"], ["mixed", "mixed"]]
    whole = run(batches)
    first = collected(whole)
    collected(whole, first.rest, step=1)
    keys = whole.collector.sampler.keys
    assert len(keys) == 3 and len({str(key) for key in keys}) == 3
    broken = run(batches[2:])
    collected(broken, first.rest, step=1)
    assert broken.collector.sampler.keys == keys[2:]


def test_a_stop_in_the_middle_of_a_refill_loses_nothing(run):
    """What was collected by then is handed back, and fills the batch later."""
    batches = [["mixed", "wrong", "wrong"], ["wrong", "mixed", "mixed"]]
    whole = run(batches)
    wanted = collected(whole)
    made = run(batches)
    answers = iter([False, True])
    part = made.collector({}, made.collector.begin(), step=0, stopped=lambda: next(answers))
    assert part.ended == "stopped" and part.groups is None and part.rest.groups.size == 1
    found = collected(made, part.rest)
    for a, b in zip(found.groups, wanted.groups, strict=True):
        np.testing.assert_array_equal(a, b)
    assert found.trained == wanted.trained
    assert found.rest.cursor._replace(counters={}) == wanted.rest.cursor._replace(counters={})
    assert without_times(found.metrics) == without_times(wanted.metrics)


def without_times(metrics):
    timed = ("time/", "sampler/tokens_per_second")
    return {name: value for name, value in metrics.items() if not name.startswith(timed)}


def test_a_batch_ends_when_all_that_are_left_were_asked_for_it(run):
    """Six of eight are retired: with one group found it is enough, without any it is not."""
    retired = tuple(range(6))

    def asked(**counters):
        made = run([["mixed", "mixed"]], retire_pass_rate=1.0)
        carried = {"data/groups_carried": 0.0}
        cursor = Cursor(retired=retired, counters=carried | counters)
        return made.collector._draw(cursor)[0].size

    enough = {"data/groups_generated": 2.0, "data/groups_kept": 1.0}
    assert asked(**enough) == 0
    for more in ({"data/groups_kept": 0.0}, {"data/groups_generated": 1.0}):
        assert asked(**(enough | more)) == 2


def test_skip_leaves_the_step_out_and_carries_its_groups(run, caplog):
    made = run(
        [["wrong", "mixed"], ["right", "failed"], ["mixed", "mixed"]],
        max_generation_batches=2,
        on_cap="skip",
    )
    found = collected(made)
    assert found.groups is None and found.ended is None and found.rest.groups.size == 1
    assert found.metrics["data/steps_skipped"] == 1 and found.metrics["data/groups_trained"] == 0
    assert (
        "of 4 generated, 1 are all wrong, 1 all right, 1 not graded and 0 graded but not judged"
        in caplog.text
    )
    after = collected(made, found.rest, step=1)
    assert after.trained == ((0, 1), (2, 0)) and after.metrics["data/steps_skipped"] == 1


@pytest.mark.parametrize("on_cap", ["train_partial", "raise"])
def test_a_solved_task_is_no_error(run, on_cap, caplog):
    made = run(
        [["right", "code right"], ["right", "right"]], max_generation_batches=2, on_cap=on_cap
    )
    with caplog.at_level("INFO"):
        found = collected(made)
    assert found.groups is None and found.ended == "solved"
    assert (
        "0 are all wrong, 4 all right" in caplog.text
        and "the task is solved, the run ends here" in caplog.text
    )
    # started again: nothing more is generated
    cursor = Cursor.of(json.loads(json.dumps(found.rest.cursor.plain())))
    again = collected(made, Rollouts(cursor, found.rest.groups))
    assert again.ended == "solved"


@pytest.mark.parametrize(
    "batch", [["right", "wrong"], ["right", "failed"], ["failed", "failed"], ["wrong", "wrong"]]
)
def test_what_is_not_solved_is_an_error(run, batch):
    """One wrong group, or nothing known about a good part of them."""
    with pytest.raises(
        TrainingError, match=r"0 of 2 groups have a right and a wrong answer.*algorithm.on_cap=skip"
    ):
        collected(run([batch], max_generation_batches=1))


@pytest.mark.parametrize("score", [-3.0, 5.0])
def test_a_reward_model_keeps_the_groups_whose_scores_differ(run, score):
    """However high or low its scores are: 0 is no border, and a model that likes everything has not
    solved the task."""
    made = run([["mixed", "right", "wrong"]], size=1, form=score, function="model")
    found = collected(made)
    assert found.trained == ((0, 0),) and found.metrics["data/groups_kept"] == 1
    assert found.metrics["data/groups_alike"] == 2
    assert not {"data/groups_all_wrong", "data/accuracy"} & set(found.metrics)
    alike = run(
        [["right", "wrong"]], form=score, function="model", max_generation_batches=1, on_cap="raise"
    )
    with pytest.raises(TrainingError, match="groups have rewards that differ: of 2 generated, 2 h"):
        collected(alike)


def test_what_the_error_offers_may_be_changed_on_resume(run, tmp_path):
    made = run([["wrong", "wrong"]], max_generation_batches=1)
    with pytest.raises(TrainingError) as error:
        collected(made)
    assert "\n" not in str(error.value)
    path = tmp_path / "config.yaml"
    path.write_text(made.config.to_yaml())
    offered = {"on_cap": "skip", "max_generation_batches": 20, "dynamic_sampling": False}
    for name, value in offered.items():
        assert f"algorithm.{name}" in str(error.value)
        changed = dataclasses.replace(
            made.config, algorithm=dataclasses.replace(made.config.algorithm, **{name: value})
        )
        assert changed.changes_since(path) == []
    assert (
        f"rlhf-jax export {made.config.run_dir} FOLDER, then model.path=FOLDER run_dir=NEW"
        in str(error.value)
    )


def test_groups_are_trained_partly_at_the_cap(run, caplog):
    found = collected(run([["mixed", "wrong"]], max_generation_batches=1))
    assert (
        found.groups.size == 2 and found.trained == ((0, 0),) and "training on those" in caplog.text
    )
    assert join(found.groups).prompt.tolist() == [0, -1]
