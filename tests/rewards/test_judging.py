"""Who judges: named rewards in their order, verifiers of several tasks, and never a reward for form
by accident."""

import numpy as np
import pytest

from rlhf_jax.rewards import RewardConfig
from rlhf_jax.rewards.accuracy import Answers, metric_names, metrics_of
from rlhf_jax.rewards.judging import Judge, make_judge

NAN = float("nan")


def parts(*columns):
    """One column for each reward."""
    return np.array(columns, np.float32).T


def verdict(judge, columns, total=None, tasks=None):
    values = parts(*columns)
    total = (
        np.where(np.isnan(values).all(1), NAN, np.nansum(values, 1))
        if total is None
        else np.array(total, np.float32)
    )
    tasks = judge.learn(total, values, {}) if tasks is None else tasks
    right, judged = judge.correct(total, values, tasks)
    return right.tolist(), judged.tolist()


def test_two_verifiers_that_share_no_row_judge_one_after_the_other():
    judge = Judge(("maths", "code"), (0,), (1,))
    assert verdict(judge, [[1, 0, NAN, NAN], [NAN, NAN, 1, 0]]) == (
        [True, False, True, False],
        [True] * 4,
    )


def test_a_reward_for_form_does_not_judge_what_the_verifier_leaves_out():
    judge = Judge(("maths", "form"), (0,), (1,))
    assert verdict(judge, [[1, 0, NAN, NAN], [1, 1, 1, 1]]) == (
        [True, False, False, False],
        [True, True, False, False],
    )


def test_without_evidence_nothing_is_judged_and_evidence_stays():
    """A batch with rows of the second task alone does not say whether the second reward is its
    verifier."""
    judge = Judge(("maths", "code"), (0,), (1,))
    alone = [[NAN, NAN], [1, 0]]
    assert verdict(judge, alone) == ([False, False], [False, False])
    tasks = judge.learn(np.ones(2), parts([1, NAN], [NAN, 1]), {})
    assert tasks == {"code": True} and verdict(judge, alone, tasks=tasks) == (
        [True, False],
        [True, True],
    )
    # it also grades what maths grades: it was form after all
    later = judge.learn(np.ones(1), parts([1], [1]), tasks)
    assert later == {"code": False} and judge.learn(np.ones(1), parts([1], [NAN]), later) == later


def test_a_failure_is_no_abstention():
    """The total of a row is NaN when a reward failed on it: it says nothing about tasks."""
    judge = Judge(("maths", "form"), (0,), (1,))
    assert judge.learn(np.array([NAN, NAN]), parts([1, 0], [NAN, NAN]), {}) == {}


def test_a_third_task():
    judge = Judge(("a", "form", "b", "c"), (0,), (1, 2, 3))
    columns = [[1, NAN, NAN], [1, 1, 1], [NAN, 0, NAN], [NAN, NAN, 1]]
    assert verdict(judge, columns) == ([True, False, True], [True] * 3)


def test_named_judges_are_asked_in_their_order():
    rewards = tuple(RewardConfig(function="exact_match", name=name) for name in ("a", "b", "c"))
    judge = make_judge(rewards, ("c", "a"))
    assert (judge.judges, judge.candidates) == ((2, 0), ())
    assert verdict(judge, [[1, 1, NAN], [1, 1, 1], [0, NAN, NAN]]) == (
        [False, True, False],
        [True, True, False],
    )


def test_built_in_rewards_for_form_are_no_candidates():
    functions = (
        "math",
        "think_format",
        "format",
        "length",
        "repetition",
        "overlong",
        "code",
        "exact_match",
        "countdown",
        "harmful",
    )
    judge = make_judge([RewardConfig(function=name) for name in functions], None)
    assert [functions[index] for index in judge.candidates] == ["code", "exact_match", "countdown"]
    for names, judges in (
        (("length", "format", "code"), (2,)),
        (("format", "length"), (0,)),
        (("format", "model"), ()),
    ):
        rewards = tuple(
            RewardConfig(function=name, options={"path": "x"} if name == "model" else {})
            for name in names
        )
        assert make_judge(rewards, None).judges == judges


def answers(columns, texts=None, failures=None):
    """Answers of [N][k] values of each reward."""
    values = np.stack([np.array(column, np.float32) for column in columns], -1)
    total = np.where(np.isnan(values).all(-1), NAN, np.nansum(values, -1)).astype(np.float32)
    texts = texts or ["1"] * total.size
    no = np.zeros(total.shape, bool)
    return Answers(total, values, np.full(total.shape, 3), no, texts, no, failures or {})


def test_every_accuracy_is_a_mean_over_judged_rows():
    """Four prompts of two samples; the grader failed on one sample of the first prompt and on the
    whole last prompt."""
    judge = Judge(("grade",), (0,), ())
    greedy = answers([[[1], [0], [NAN], [NAN]]], failures={"grade/error": 2})
    sampled = answers(
        [[[1, NAN], [0, 1], [0, 0], [NAN, NAN]]],
        texts=list("12345678"),
        failures={"grade/error": 3},
    )
    metrics = metrics_of(judge, greedy, sampled)
    assert metrics["accuracy/greedy"] == 0.5 and metrics["rewards/greedy"] == 0.5
    assert metrics["accuracy/mean@2"] == 2 / 5 and metrics["accuracy/pass@2"] == 2 / 3
    # the second: a tie of a right and a wrong answer
    assert metrics["accuracy/maj@2"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert metrics["rewards/ungraded"] == 0.5 and metrics["rewards/ungraded_sampled"] == 3 / 8
    assert (
        metrics["rewards/failed/grade/error"] == 2
        and metrics["rewards/failed_sampled/grade/error"] == 3
    )
    assert {name for name in metrics if "failed" not in name} == set(metric_names(judge, 2))


def test_each_of_several_rewards_has_its_mean():
    """A gold rule beside a learned judge, graded on three of four samples."""
    judge = Judge(("gold", "judge"), (0,), ())
    greedy = answers([[[1], [0]], [[2.5], [0.5]]])
    sampled = answers([[[1, NAN], [0, 0]], [[3, 1], [0, -2]]])
    metrics = metrics_of(judge, greedy, sampled)
    assert metrics["rewards/gold"] == 0.5 and metrics["rewards/judge"] == 1.5
    assert metrics["rewards/gold_sampled"] == pytest.approx(1 / 3)
    assert metrics["rewards/judge_sampled"] == 0.5
    assert set(metrics) == set(metric_names(judge, 2))


def test_a_mean_over_nothing_is_left_out():
    judge = Judge(("grade",), (0,), ())
    metrics = metrics_of(judge, answers([[[NAN], [NAN]]]), answers([[[NAN, NAN], [NAN, NAN]]]))
    assert not any(
        name.startswith("accuracy/") or name in ("rewards/greedy", "rewards/sampled")
        for name in metrics
    )
    assert metrics["rewards/ungraded"] == metrics["rewards/ungraded_sampled"] == 1.0


def test_two_tasks_are_judged_as_one_whole():
    """Evidence about the second task comes from the whole evaluation, whatever the batches were."""
    judge = Judge(("maths", "code"), (0,), (1,))
    greedy = answers([[[1], [1], [NAN], [NAN]], [[NAN], [NAN], [1], [0]]])
    metrics = metrics_of(judge, greedy, None)
    assert metrics["accuracy/greedy"] == 0.75 and "accuracy/mean@2" not in metrics


def test_without_a_judge_there_is_no_accuracy():
    judge = Judge(("model",), (), ())
    assert not any(
        name.startswith("accuracy/") for name in metrics_of(judge, answers([[[1.0]]]), None)
    )
    assert metric_names(judge, 0) == [
        "rewards/greedy",
        "rewards/ungraded",
        "length/greedy",
        "length/truncated_greedy",
    ]
    assert verdict(judge, [[0.5, -1.0, NAN]]) == ([True, False, False], [True, True, False])
