"""The table of all that is generated: one schema, whole steps a file, exact after a resume."""

import errno
import json
import re

import pyarrow.parquet
import pytest

from rlhf_jax.io import COMPLETION_COLUMNS, CompletionsWriter, Resumed, completions

REWARDS = ("maths", "form")
FIXED = [
    "step",
    "split",
    "sample",
    "kept",
    "trained_step",
    "generation_batch",
    "prompt_index",
    "prompt",
    "completion",
]


def writer(folder, resumed=None, kind="parquet"):
    return CompletionsWriter(folder, kind=kind, rewards=REWARDS, group_size=2, resumed=resumed)


def rows_of(step, draw, groups, *, split="train", kept=None, **extra):
    """Columns of one generation batch of `groups` groups of 2."""
    count = 2 * groups
    return {
        "step": [step] * count,
        "split": [split] * count,
        "sample": [row % 2 for row in range(count)],
        "kept": [True] * count if kept is None else [keep for keep in kept for _ in range(2)],
        "generation_batch": [draw] * count,
        "prompt_index": [row // 2 for row in range(count)],
        "prompt": [f"{step}:{row // 2}" for row in range(count)],
        "completion": [f"answer {draw} {row}" for row in range(count)],
        "maths": [float("nan") if row % 2 else 1.0 for row in range(count)],
        "form": [0.5] * count,
        "reward": [float("nan") if row % 2 else 1.5 for row in range(count)],
        "tokens": [3] * count,
        "truncated": [False] * count,
    } | {name: values * count for name, values in extra.items()}


def read(folder):
    """What `pandas.read_parquet(folder)` reads, as rows."""
    return pyarrow.parquet.read_table(folder).to_pylist()


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_one_schema_for_training_and_evaluation(tmp_path):
    folder = tmp_path / "completions"
    with writer(folder) as table:
        evaluation = rows_of(0, None, 1, split="eval", kept=[False])
        table.add(evaluation | {"sample": [completions.GREEDY] * 2})
        table.add(rows_of(1, 0, 2))
        table.trained([(0, 0), (0, 1)], 1)
    for path in folder.rglob("*.parquet"):
        assert pyarrow.parquet.read_schema(path).names == [
            *FIXED,
            *REWARDS,
            "reward",
            "tokens",
            "truncated",
        ]
    assert set(COMPLETION_COLUMNS) == {*FIXED, "reward", "tokens", "truncated"}
    rows = read(folder)
    assert [row["split"] for row in rows].count("eval") == 2 and len(rows) == 6
    held_out = next(row for row in rows if row["split"] == "eval")
    assert (
        held_out["sample"] == -1
        and held_out["generation_batch"] is None
        and held_out["trained_step"] is None
    )
    assert [row["maths"] for row in rows if row["split"] == "train"] == [1.0, None, 1.0, None]
    assert {row["trained_step"] for row in rows if row["split"] == "train"} == {1}


def test_few_files_of_whole_steps(tmp_path):
    with writer(tmp_path) as table:
        for step in range(1, 251):
            table.add(rows_of(step, step - 1, 1))
            if step % 7 == 0:
                table.flush()
    assert files(tmp_path) == [f"train/from-step-{step:08d}.parquet" for step in (1, 101, 201)]
    assert [row["step"] for row in read(tmp_path)][::2] == list(range(1, 251))


def test_large_steps_begin_new_files_and_do_not_wait_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(completions, "FILE_BYTES", 1000)
    monkeypatch.setattr(completions, "FLUSH_BYTES", 400)
    table = writer(tmp_path)
    for step in range(1, 31):
        table.add(rows_of(step, 2 * step, 2))
        table.add(rows_of(step, 2 * step + 1, 2))
    assert 28 <= len({row["step"] for row in read(tmp_path)})  # without a flush or an end
    table.flush()
    steps = [{row["step"] for row in read(tmp_path / name)} for name in files(tmp_path)]
    assert len(steps) > 5 and sum(map(len, steps)) == 30  # no step stands in two files


def test_groups_carried_over_are_marked_when_they_are_trained_on(tmp_path, monkeypatch):
    """Also when they stand in a file that was finished before."""
    monkeypatch.setattr(completions, "FILE_STEPS", 1)
    with writer(tmp_path) as table:
        table.add(rows_of(1, 0, 3, kept=[True, False, True]))
        table.trained([(0, 0)], 1)
        table.flush()
        table.add(rows_of(2, 1, 1))
        table.trained([(1, 0)], 2)
        table.flush()
        table.trained([(0, 2)], 3)
    found = [
        (row["generation_batch"], row["prompt_index"], row["kept"], row["trained_step"])
        for row in read(tmp_path)
    ][::2]
    assert found == [(0, 0, True, 1), (0, 1, False, None), (0, 2, True, 3), (1, 0, True, 2)]


def story(table, upto, start=1):
    """Steps of two generation batches, a group carried between; stops after a number of them."""
    for step in range(start, 7):
        for part in range(2):
            draw = 2 * (step - 1) + part
            if draw >= upto:
                return
            table.add(rows_of(step, draw, 2, kept=[True, part == 1]))
        table.trained([(2 * step - 3, 1), (2 * step - 2, 0), (2 * step - 1, 0)], step)
        table.add(rows_of(step, None, 1, split="eval", kept=[False]))


@pytest.mark.parametrize("draws", [0, 2, 3, 4])
def test_what_was_generated_after_the_checkpoint_is_dropped(tmp_path, draws):
    """A run that goes on, also from amid a step, leaves the table of one not killed."""
    with writer(tmp_path / "whole") as table:
        story(table, upto=12)
    table = writer(tmp_path / "broken")
    story(table, upto=9)
    table.flush()
    step = draws // 2
    with writer(tmp_path / "broken", Resumed(step, draws, frozenset(range(step + 1)))) as table:
        if draws % 2:  # the first generation batch of the step is in the checkpoint
            table.add(rows_of(step + 1, draws, 2, kept=[True, True]))
            table.trained([(2 * step - 1, 1), (2 * step, 0), (2 * step + 1, 0)], step + 1)
            table.add(rows_of(step + 1, None, 1, split="eval", kept=[False]))
            step += 1
        story(table, upto=12, start=step + 1)
    assert read(tmp_path / "whole") == read(tmp_path / "broken")


def test_an_evaluation_that_is_made_again_stands_there_once(tmp_path):
    """Killed between the completions and the row of metrics that tells of the evaluation."""
    with writer(tmp_path) as table:
        for step in (0, 2):
            table.add(rows_of(step, None, 1, split="eval"))
    with writer(tmp_path, Resumed(2, 0, frozenset({0}))) as table:
        table.add(rows_of(2, None, 1, split="eval"))
    assert [row["step"] for row in read(tmp_path)] == [0, 0, 2, 2]


def test_a_start_that_failed_leaves_nothing(tmp_path):
    with writer(tmp_path) as table:
        table.add(rows_of(1, 0, 1))
    with writer(tmp_path) as table:
        table.add(rows_of(1, 0, 2))
    assert len(read(tmp_path)) == 4


def test_columns_of_reward_functions_may_come_later(tmp_path):
    """A reader takes the columns of the first file for all of them."""
    with writer(tmp_path) as table:
        table.add(rows_of(1, 0, 1, split="eval"))
        table.flush()
        table.add(rows_of(2, 1, 1, note=[{"why": "ä"}], plain=["as it is"], number=[3]))
    assert [(row["note"], row["plain"], row["number"]) for row in read(tmp_path)[::2]] == [
        (None, None, None),
        ('{"why": "ä"}', "as it is", "3"),
    ]
    with writer(tmp_path, Resumed(2, 2)) as table:
        table.add(rows_of(3, 2, 1))
    assert [row["plain"] for row in read(tmp_path)[::2]] == [None, "as it is", None]


def test_the_format_may_change_on_resume(tmp_path):
    with writer(tmp_path, kind="jsonl") as table:
        table.add(rows_of(1, 0, 1))
        table.add(rows_of(2, 1, 1))
    lines = [json.loads(line) for line in (tmp_path / files(tmp_path)[0]).read_text().splitlines()]
    assert (
        lines[1]["maths"] is None
        and lines[1]["reward"] is None
        and lines[0]["completion"] == "answer 0 0"
    )
    with writer(tmp_path, Resumed(1, 1)) as table:
        table.add(rows_of(2, 1, 1))
    assert files(tmp_path) == ["train/from-step-00000001.parquet"]
    assert [row["completion"] for row in read(tmp_path)] == [line["completion"] for line in lines]


def test_none_writes_nothing(tmp_path):
    with writer(tmp_path / "absent", kind="none") as table:
        table.add(rows_of(1, 0, 1))
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("text", ["half a pair \ud83d", None, [{"type": "text", "text": "x"}]])
def test_any_prompt_can_be_written(tmp_path, text):
    with writer(tmp_path) as table:
        table.add(rows_of(1, 0, 1) | {"prompt": [text, text]})
    assert [row["prompt"] for row in read(tmp_path)] == [
        None
        if text is None
        else "half a pair ?"
        if isinstance(text, str)
        else '[{"type": "text", "text": "x"}]'
    ] * 2


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_what_functions_logged_survives_a_resume(tmp_path, kind):
    with writer(tmp_path, kind=kind) as table:
        for step in (1, 2, 3):
            table.add(rows_of(step, step - 1, 1, note=[f"seen {step}"]))
    with writer(tmp_path, Resumed(2, 2), kind=kind) as table:
        table.add(rows_of(3, 2, 1))
    if kind == "parquet":
        rows = read(tmp_path)
    else:
        rows = [
            json.loads(line)
            for file in sorted(tmp_path.rglob("*.jsonl"))
            for line in file.read_text().splitlines()
        ]
    assert [row["note"] for row in rows] == ["seen 1"] * 2 + ["seen 2"] * 2 + [None] * 2


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_full_disk_does_not_hide_the_error_that_ended_the_run(
    tmp_path, monkeypatch, caplog, kind
):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(completions.json, "dumps", full)
    monkeypatch.setattr(completions.pyarrow.parquet, "write_table", full)
    place = f"No space left on device: '{tmp_path}/completions/train/from-step-00000001.{kind}'"
    with pytest.raises(KeyboardInterrupt), writer(tmp_path / "completions", kind=kind) as table:
        table.add(rows_of(1, 0, 1))
        raise KeyboardInterrupt
    [record] = caplog.records
    assert record.levelname == "WARNING" and place in record.getMessage()
    with (
        pytest.raises(OSError, match=re.escape(place)),
        writer(tmp_path / "completions", kind=kind) as table,
    ):
        table.add(rows_of(1, 0, 1))
