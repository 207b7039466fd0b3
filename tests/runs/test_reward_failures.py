"""A run whose rewards do not grade: it ends with the reason, and nothing shows a mean over nothing
as 0."""

import dataclasses
import errno
import json
import pathlib

import pyarrow.parquet
import pytest

from rlhf_jax.cli.main import exit_code
from rlhf_jax.errors import TrainingError
from rlhf_jax.io import Checkpointer
from rlhf_jax.rewards import PoolConfig, RewardConfig
from rlhf_jax.rewards.errors import RewardError
from rlhf_jax.runs import online, train
from tests.loops.conftest import ONLINE
from tests.runs.test_online import rows_of

JUDGES = """
def broken(completions, answer, **columns):
    return [len(completion) + answer for completion in completions]


def single(completions, trainer_state, **columns):
    return [1.0] * (1 if trainer_state.global_step else len(completions))


def silent(completions, **columns):
    return [None] * len(completions)


def logs(completions, completion_ids, trainer_state, log_extra, log_metric):
    log_extra("first_id", [ids[0] for ids in completion_ids])
    log_metric("step", trainer_state.global_step)
    log_metric("share", trainer_state.epoch / trainer_state.max_steps)
    return [float(ids[0] % 2) for ids in completion_ids]
"""


@pytest.fixture
def judged_by(online_config, tmp_path):
    """(function of JUDGES, algorithm, **options of the pool) -> a run of two steps."""

    def build(function, name="grpo", *, algorithm=None, **pool):
        (tmp_path / "judges.py").write_text(JUDGES)
        (tmp_path / "rows.jsonl").write_text(
            "".join(json.dumps({"prompt": f"{i}:", "answer": "x"}) + "\n" for i in range(8))
        )
        config = online_config(
            name,
            algorithm=algorithm,
            data={"path": str(tmp_path / "rows.jsonl"), "eval_size": 0},
            rewards=(RewardConfig(function=f"{tmp_path / 'judges.py'}:{function}"),),
            training={"max_steps": 2, "eval_every": 0},
        )
        return dataclasses.replace(config, reward_pool=PoolConfig(workers=1, **pool))

    return build


def test_a_bug_in_the_reward_ends_the_run_at_once(judged_by):
    config = judged_by("broken")
    with pytest.raises(TrainingError) as raised:
        train(config, progress=False)
    message = str(raised.value)
    assert (
        "reward 'broken'" in message
        and "TypeError: unsupported operand" in message
        and "\n" not in message
    )
    assert "raised on every completion of the batch" in message
    # it can be given again, and goes on from where it was
    with pytest.raises(TrainingError, match="reward 'broken'"):
        train(config, progress=False)


@pytest.mark.slow
def test_means_over_nothing_are_absent(judged_by):
    config = judged_by("broken", max_failed=2)
    with pytest.raises(TrainingError, match="2 batches in a row"):
        train(config, progress=False)
    [row] = rows_of(config.run_dir)
    absent = {
        "rewards/mean",
        "rewards/std",
        "rewards/broken",
        "rewards/group_std",
        "rewards/zero_std_groups",
        "data/accuracy",
    }
    assert not absent & {name for name, value in row.items() if value is not None}
    assert (
        row["rewards/ungraded"] == 1.0
        and row["rewards/failed/broken/error"] == 16
        and row["data/groups_ungraded"] == 4
    )


@pytest.mark.slow
def test_dapo_does_not_take_ungraded_groups_for_wrong_ones(judged_by):
    config = judged_by(
        "silent", "dapo", algorithm=dataclasses.replace(ONLINE["dapo"], max_generation_batches=2)
    )
    with pytest.raises(
        TrainingError, match="of 8 generated, 0 are all wrong, 0 all right, 8 not graded"
    ):
        train(config, progress=False)


@pytest.mark.slow
def test_batches_without_one_grade_end_the_run(judged_by):
    with pytest.raises(
        TrainingError, match="no completion of 2 batches in a row got a grade .*silent/none 16"
    ):
        train(judged_by("silent", max_ungraded=2), progress=False)


@pytest.mark.slow
def test_a_result_of_another_length_ends_the_run_and_nothing_is_lost(
    judged_by, monkeypatch, caplog
):
    """In the second step; a disk that is full then does not hide why."""
    config = judged_by("single")
    with pytest.raises(
        RewardError,
        match="reward 'single' .*judges.py:single.* returned 1 values for 16 completions",
    ) as raised:
        train(config, progress=False)
    assert exit_code(raised.value) == 5
    with Checkpointer(pathlib.Path(config.run_dir) / "checkpoints") as checkpointer:
        assert checkpointer.all_steps() == [1]

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(online, "save", full)
    with pytest.raises(RewardError, match="returned 1 values"):
        train(config, progress=False)
    assert "since the last checkpoint is lost: [Errno 28] No space left on device" in caplog.text


@pytest.mark.slow
def test_what_a_function_logs_arrives(judged_by):
    config = judged_by("logs")
    data = dataclasses.replace(config.data, eval_size=4)
    training = dataclasses.replace(config.training, eval_batch_size=3, eval_every=2)
    config = dataclasses.replace(config, data=data, training=training)
    run_dir = train(config, progress=False).run_dir
    rows = rows_of(run_dir)
    assert [row["rewards/logs/step"] for row in rows] == [0.0, 1.0]
    # 4 of the 4 prompts that are trained on, in 2 steps
    assert [row["rewards/logs/share"] for row in rows] == [0.0, 0.5]
    held_out = rows_of(run_dir, "eval")
    for suffix in ("", "_sampled"):
        assert [row[f"rewards/logs/step{suffix}"] for row in held_out] == [0.0, 2.0]
    table = pyarrow.parquet.read_table(run_dir / "completions" / "eval").to_pydict()
    assert len(table["first_id"]) == 2 * (4 + 4 * 2) and set(table["sample"]) == {-1, 0, 1}
    assert [float(first) % 2 for first in table["first_id"]] == table["logs"]
    table = pyarrow.parquet.read_table(run_dir / "completions" / "train").to_pydict()
    assert [float(first) % 2 for first in table["first_id"]] == table["logs"]
