"""Which runs are seeds of one configuration, and how they are called."""

import pathlib

import pytest

from rlhf_jax.runs.report.grouping import group_names, group_runs, show_value
from rlhf_jax.runs.report.reading import find_runs, read_run
from tests.runs.report.folders import GRPO, make_run


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        ([["runs/grpo/seed_0", "runs/grpo/seed_1"], ["runs/ppo/seed_0"]], "grpo ppo"),
        ([["runs/grpo"], ["runs/dpo"]], "grpo dpo"),
        ([["a/grpo"], ["b/grpo"]], "a/grpo b/grpo"),
        ([["runs/grpo_0", "runs/grpo_1"]], "grpo"),
        ([["runs/grpo-seed1", "runs/grpo-seed2"], ["runs/ppo-seed1"]], "grpo ppo-seed1"),
        ([["runs/grpo/0", "runs/grpo/1"]], "grpo"),
        ([["runs/x/seed_3"]], "x"),
        ([["runs/class"]], "class"),
    ],
)
def test_names(groups, names):
    paths = [[pathlib.Path("/", path) for path in group] for group in groups]
    assert group_names(paths) == names.split()


def test_two_configurations_in_one_folder_have_names_that_tell_them_apart():
    paths = [[pathlib.Path("/runs/a"), pathlib.Path("/runs/b")], [pathlib.Path("/runs/c")]]
    assert len(set(group_names(paths))) == 2
    paths = [[pathlib.Path("/runs/a/0")], [pathlib.Path("/runs/a/1")]]
    assert len(set(group_names(paths))) == 2


def test_what_changes_nothing_that_is_learnt_makes_no_other_group(tmp_path):
    make_run(tmp_path / "a", GRPO)
    make_run(tmp_path / "b", GRPO | {"seed": 7, "logging": {"plot": False}})
    make_run(tmp_path / "c", GRPO | {"rewards": GRPO["rewards"][:1]})
    runs = [read_run(path) for path in find_runs([tmp_path])]
    assert [group.runs for group in group_runs(runs)] == [[0, 1], [2]]


def test_a_run_is_taken_once(tmp_path):
    run = make_run(tmp_path / "a" / "run", steps=1)
    (run / "checkpoints" / "x").mkdir(parents=True)
    (run / "checkpoints" / "x" / "metrics.jsonl").touch()
    assert find_runs([tmp_path, run, tmp_path / "a"]) == [run]


def test_values_look_as_in_yaml():
    assert [show_value(value) for value in (None, True, 1e-6, [1, "a"], "text")] == [
        "null",
        "true",
        "1e-06",
        '[1, "a"]',
        "text",
    ]
