"""Filling a training batch from groups made by hand: which are kept, what happens at the cap, what
a checkpoint holds."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from rlhf_jax.loops import TrainingError, collect
from rlhf_jax.loops.collect import Position
from rlhf_jax.loops.groups import filler_groups, from_rollout, join
from rlhf_jax.loops.judging import training_judge
from rlhf_jax.rewards import RewardConfig
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


@pytest.fixture
def run(online_config, monkeypatch):
    """(batches of kinds of groups, **options of DAPO) -> (setup, function that collects one
    training batch)."""

    def build(batches, *, size=2, form=None, **options):
        names = ("maths", "code") if form is None else ("maths", "form")
        rewards = tuple(RewardConfig(function="exact_match", name=name) for name in names)
        algorithm = dataclasses.replace(ONLINE["dapo"], group_size=2, **options)
        config = online_config(
            "dapo", algorithm=algorithm, rewards=rewards, training={"batch_size": size}
        )
        judge = training_judge(config)
        grader = SimpleNamespace(
            judge=judge,
            names=names,
            told_unjudged=False,
            correct=lambda total, parts, tasks: judge.correct(total, parts, tasks),
        )
        setup = SimpleNamespace(
            config=config,
            grader=grader,
            group_size=2,
            total_steps=9,
            prompts=SimpleNamespace(
                num_examples=8,
                indices=lambda place, count: np.arange(place, place + count) % 8,
                order=lambda epoch: np.arange(8),
            ),
            filler=lambda count: filler_groups(count, group_size=2, width=4, num_rewards=2),
        )
        drawn = iter(batches)

        def generate_groups(setup, params, indices, *, draw, step):
            kinds = next(drawn)
            parts = np.array([KINDS[kind] for kind in kinds], np.float32)
            if form is not None:
                parts[..., 1] = form
            return made(parts, draw, step)

        monkeypatch.setattr(collect, "generate_groups", generate_groups)
        return setup

    return build


def made(parts, draw, step):
    count = len(parts)
    total = (
        np.where(np.isnan(parts).all(-1), NAN, np.nansum(parts, -1)).reshape(-1).astype(np.float32)
    )
    zeros = np.zeros((2 * count, 4))
    rollout = Rollout(
        zeros.astype(np.int32), zeros > -1, zeros > -1, zeros.astype(np.float32), zeros[:, 0] > 0
    )
    groups = from_rollout(
        rollout,
        prompt=np.arange(count),
        prompt_length=np.full(count, 2),
        width=4,
        rewards=total,
        parts=parts.reshape(2 * count, 2),
        step=step,
    )
    tally = {"data/generation_batches": 1.0, "data/groups_generated": float(count)}
    tally |= {"tokens": 1.0, "slot_steps": 1.0, "time/generate": 1.0}
    tally |= {
        f"{kind}/{name}": 1.0 for kind in ("sum", "count") for name in ("maths", "code", "form")
    }
    return collect.Batch(
        groups, tally, {"completion": [f"{draw}:{row}" for row in range(2 * count)]}
    )


def collected(setup, position=None, pending=None, *, step=0, record=lambda columns: None):
    pending = setup.filler(0) if pending is None else pending
    return collect.collect(
        setup, {}, pending, position or Position(), step=step, stopped=lambda: False, record=record
    )


def test_both_tasks_are_trained_on(run, caplog):
    """Each verifier abstains from the other's rows."""
    found = collected(run([["mixed", "code mixed", "code right", "mixed"]], size=3))
    parts = found.groups.parts
    assert np.isnan(parts[..., 1]).all(1).tolist() == [True, False, True]
    assert (
        found.metrics["data/groups_all_right"] == 1 and found.metrics["data/groups_unjudged"] == 0
    )
    assert found.metrics["data/accuracy"] == 5 / 8 and not caplog.records


def test_a_reward_for_form_judges_nothing_and_that_is_said(run, caplog):
    setup = run(
        [["mixed", "code mixed", "mixed"], ["code mixed", "mixed", "mixed"]], size=3, form=1.0
    )
    found = collected(setup)
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
    found = collected(
        run([["wrong", "mixed"], ["right", "right"], ["mixed", "mixed"]]),
        step=4,
        record=tables.append,
    )
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
    assert found.trained == ((0, 1), (2, 0)) and found.position.carried == ((2, 1),)


def test_groups_carried_over_keep_their_names_through_a_checkpoint(run):
    setup = run([["mixed", "mixed", "mixed"], ["mixed", "wrong", "mixed"]])
    first = collected(setup)
    position = Position.of(json.loads(json.dumps(first.position.plain())))
    assert position == first.position
    second = collected(setup, position, first.pending, step=1)
    assert second.trained == ((0, 2), (1, 0)) and second.position.carried == ((1, 2),)


def test_a_checkpoint_of_an_older_version_is_read(run):
    """It does not say which groups it carries: they have no name, those after them do."""
    setup = run([["mixed", "mixed"]])
    position = Position.of({"place": 3, "draws": 7, "tally": {}, "retired": [1]})
    found = collected(
        setup, position, made(np.array([KINDS["mixed"]], np.float32), 0, 0).groups, step=1
    )
    assert found.trained == ((-1, -1), (7, 0)) and found.position.carried == ((7, 1),)


def test_skip_leaves_the_step_out_and_carries_its_groups(run, caplog):
    setup = run(
        [["wrong", "mixed"], ["right", "failed"], ["mixed", "mixed"]],
        max_generation_batches=2,
        on_cap="skip",
    )
    found = collected(setup)
    assert found.groups is None and found.ended is None and found.pending.size == 1
    assert found.metrics["data/steps_skipped"] == 1 and found.metrics["data/groups_trained"] == 0
    assert (
        "of 4 generated, 1 are all wrong, 1 all right, 1 not graded and 0 graded but not judged"
        in caplog.text
    )
    after = collected(setup, found.position, found.pending, step=1)
    assert after.trained == ((0, 1), (2, 0)) and after.metrics["data/steps_skipped"] == 1


@pytest.mark.parametrize("on_cap", ["train_partial", "raise"])
def test_a_solved_task_is_no_error(run, on_cap, caplog):
    setup = run(
        [["right", "code right"], ["right", "right"]], max_generation_batches=2, on_cap=on_cap
    )
    with caplog.at_level("INFO"):
        found = collected(setup)
    assert found.groups is None and found.ended == "solved"
    assert (
        "0 are all wrong, 4 all right" in caplog.text
        and "the task is solved, the run ends here" in caplog.text
    )
    # started again: nothing more is generated
    again = collected(setup, Position.of(found.position.plain()))
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


def test_what_the_error_offers_may_be_changed_on_resume(run, tmp_path):
    setup = run([["wrong", "wrong"]], max_generation_batches=1)
    with pytest.raises(TrainingError) as error:
        collected(setup)
    assert "\n" not in str(error.value)
    path = tmp_path / "config.yaml"
    path.write_text(setup.config.to_yaml())
    offered = {"on_cap": "skip", "max_generation_batches": 20, "dynamic_sampling": False}
    for name, value in offered.items():
        assert f"algorithm.{name}" in str(error.value)
        changed = dataclasses.replace(
            setup.config, algorithm=dataclasses.replace(setup.config.algorithm, **{name: value})
        )
        assert changed.changes_since(path) == []
    assert (
        f"rlhf-jax export {setup.config.run_dir} FOLDER, then model.path=FOLDER run_dir=NEW"
        in str(error.value)
    )


def test_groups_are_trained_partly_at_the_cap(run, caplog):
    found = collected(run([["mixed", "wrong"]], max_generation_batches=1))
    assert (
        found.groups.size == 2 and found.trained == ((0, 0),) and "training on those" in caplog.text
    )
    assert join(found.groups).prompt.tolist() == [0, -1]
