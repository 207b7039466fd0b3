"""Grading that is divided among the processes of a run."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from rlhf_jax.data import PromptBatch, byte_tokenizer
from rlhf_jax.errors import TrainingError
from rlhf_jax.loops.grading import Divided, Grades, RewardGrader, join_grades, take_rows
from rlhf_jax.loops.held_out import HeldOutPrompts, evaluate_prompts
from rlhf_jax.rewards import PoolConfig, RewardConfig, TrainerState, make_rewards
from rlhf_jax.rewards.judging import make_judge
from rlhf_jax.rollout import Sampled, SamplingParams
from rlhf_jax.types import Rollout
from tests.sharding.threads import as_processes

TRUE = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]


def batch(prompts, group_size):
    """Prompts, and completions whose first token is the number of their row from 1."""
    rows = prompts * group_size
    tokens = np.arange(1, rows + 1, dtype=np.int32)[:, None].repeat(2, axis=1)
    mask = np.ones((rows, 2), bool)
    rollout = Rollout(tokens, mask, mask, np.zeros((rows, 2), np.float32), np.zeros(rows, bool))
    asked = PromptBatch(
        np.arange(prompts),
        np.ones((prompts, 1), np.int32),
        np.ones(prompts, np.int32),
        [f"p{i}" for i in range(prompts)],
        {"worth": list(range(prompts))},
    )
    return asked, Sampled(rollout, None, [[{"content": str(row)}] for row in range(rows)])


class Plain:
    """A grader of one's own: a completion is worth its first token."""

    names = ("first", "prompt")
    judge = held_out = None

    def __init__(self):
        self.seen = []

    def __call__(self, prompts, sampled, *, state, training):
        first = sampled.rollout.tokens[:, 0].astype(np.float32)
        worth = np.repeat(prompts.columns["worth"], len(first) // len(prompts.prompts))
        self.seen.append(first.tolist())
        texts = [each[0]["content"] for each in sampled.conversations]
        opened = np.zeros(len(first), bool)
        return Grades(first, np.stack([first, worth], 1), {"first/none": 1}, texts, opened)


@pytest.mark.parametrize("prompts", [1, 4])
def test_each_process_grades_its_prompts_and_gets_all_grades(prompts, group, monkeypatch):
    graders = [Plain(), Plain()]
    asked, sampled = batch(prompts, 2)
    found = as_processes(group(2), monkeypatch)(
        lambda number: Divided(graders[number])(asked, sampled, state=TrainerState(), training=True)
    )
    for grades in found:
        assert grades.total.tolist() == TRUE[: 2 * prompts]
        worth = np.repeat(np.arange(prompts), 2)
        np.testing.assert_array_equal(grades.per_reward[:, 1], worth)
        assert grades.texts == [str(row) for row in range(2 * prompts)]
        assert grades.failures == {"first/none": min(prompts, 2)}
    assert sorted(sum(graders[0].seen + graders[1].seen, [])) == TRUE[: 2 * prompts]


@pytest.mark.parametrize(("prompts", "divided"), [(1, False), (4, False), (4, True)])
def test_rewards_give_the_same_in_several_processes(prompts, divided, group, monkeypatch, tmp_path):
    """Called inside of a grader of one's own, they must not divide what is already a part."""
    (tmp_path / "first.py").write_text(
        "def first(prompts, completions, completion_ids, **_):\n"
        "    return [float(ids[0]) for ids in completion_ids]\n"
    )
    asked, sampled = batch(prompts, 2)
    config = RewardConfig(function=f"{tmp_path / 'first.py'}:first")

    class Scoring(Plain):
        def __init__(self, rewards):
            super().__init__()
            self.rewards = rewards

        def __call__(self, prompts, sampled, *, state, training):
            ids = sampled.rollout.tokens.tolist()
            given = [prompt for prompt in prompts.prompts for _ in range(2)]
            found = self.rewards.score(given, [""] * len(ids), ids, {}).total
            grades = super().__call__(prompts, sampled, state=state, training=training)
            return grades._replace(total=found)

    with (
        make_rewards([config], PoolConfig(workers=1), divided=divided) as one,
        make_rewards([config], PoolConfig(workers=1), divided=divided) as other,
    ):
        graders = [Scoring(one), Scoring(other)]
        if not divided:
            graders = [Divided(each) for each in graders]
        found = as_processes(group(2), monkeypatch)(
            lambda number: graders[number](asked, sampled, state=TrainerState(), training=True)
        )
    assert [grades.total.tolist() for grades in found] == [TRUE[: 2 * prompts]] * 2


def test_what_all_have_seen_is_reported_once(group, monkeypatch, tmp_path, caplog):
    (tmp_path / "bad.py").write_text("def bad(completions, **_):\n    raise ValueError('no')\n")
    config = RewardConfig(function=f"{tmp_path / 'bad.py'}:bad")
    with (
        caplog.at_level(logging.WARNING, "rlhf_jax"),
        make_rewards([config], PoolConfig(workers=1), divided=True) as one,
        make_rewards([config], PoolConfig(workers=1), divided=True) as other,
    ):
        rewards = [one, other]
        as_processes(group(2), monkeypatch)(
            lambda number: rewards[number].score(["p"] * 2, ["a"] * 2, [[1]] * 2, {})
        )
    assert sum("only counted" in record.message for record in caplog.records) == 1


def test_a_grader_that_divides_is_not_divided_again():
    judge = make_judge((), None)
    grader = RewardGrader(
        [], PoolConfig(), byte_tokenizer(), models={}, judge=judge, held_out=judge, divided=True
    )
    with pytest.raises(ValueError, match="divides batches among the processes by itself"):
        Divided(grader)


def test_processes_that_grade_held_out_prompts_differently_end(group, monkeypatch):
    """By these grades each decides which checkpoint is best, and which is deleted."""
    asked, sampled = batch(2, 1)

    class Other(Plain):
        def __call__(self, *arguments, **options):
            grades = super().__call__(*arguments, **options)
            return grades._replace(total=grades.total + 1)

    held_out = HeldOutPrompts(
        SimpleNamespace(take=lambda indices: asked), 2, 2, 0, SamplingParams(), 0
    )

    def evaluate(number):
        grader = (Plain, Other)[number]()
        return evaluate_prompts(
            None,
            held_out,
            sampler=lambda *arguments, **options: sampled,
            grader=grader,
            state=TrainerState(),
        )

    for error in as_processes(group(2), monkeypatch)(evaluate):
        assert isinstance(error, TrainingError)
        assert "process 1 has other completions or grades than process 0" in str(error)


def test_parts_are_joined_by_their_rows():
    asked, sampled = batch(2, 2)
    parts = []
    for rows in (np.array([2, 3]), np.array([0, 1])):
        mine = take_rows(sampled, rows)
        assert mine.rollout.tokens[:, 0].tolist() == (rows + 1).tolist()
        assert [each[0]["content"] for each in mine.conversations] == [str(row) for row in rows]
        two = asked._replace(prompts=["p"] * 2, columns={"worth": [0, 0]})
        parts.append((rows, Plain()(two, mine, state=TrainerState(), training=True)))
    joined = join_grades(parts)
    assert joined.total.tolist() == TRUE[:4]
    assert joined.texts == ["0", "1", "2", "3"]
    assert joined.failures == {"first/none": 2}
