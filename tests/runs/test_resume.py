"""Going on: longer, from another run, with other rewards, with damaged caches, after a hangup, on a
full disk."""

import dataclasses
import errno
import logging
import pathlib
import shutil
import signal

import numpy as np
import pytest

from rlhf_jax.algorithms import DAPOConfig
from rlhf_jax.cli.main import exit_code
from rlhf_jax.io import Checkpointer, CheckpointError, RunFolderError, read_metrics
from rlhf_jax.loops import resume
from rlhf_jax.rewards import RewardConfig
from rlhf_jax.runs import space, train
from rlhf_jax.runs.source import parse_start_from, reward_digests
from rlhf_jax.training import OptimizerConfig, make_schedule
from tests.io.damage import DAMAGES
from tests.runs.test_online import arrays, rows_of, stopping_after
from tests.runs.test_train import _signal_at, params_of, values

SHORT = {"eval_every": 0, "save_every": 4}


def changed(config, **sections):
    return dataclasses.replace(
        config,
        **{
            name: dataclasses.replace(getattr(config, name), **fields)
            for name, fields in sections.items()
        },
    )


@pytest.mark.slow
def test_a_finished_run_may_be_made_longer(tiny_config, tmp_path, caplog):
    whole = train(
        tiny_config("dpo", run_dir=tmp_path / "whole", training={"max_steps": 12, **SHORT})
    )
    config = tiny_config("dpo", run_dir=tmp_path / "parts", training={"max_steps": 8, **SHORT})
    train(config)
    longer = changed(config, training={"max_steps": 12})
    assert train(longer).steps == 12
    assert "12 steps instead of 8: the schedule is that of the new number" in caplog.text
    for a, b in zip(
        params_of(tmp_path / "parts" / "export"), params_of(whole.export_dir), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    for steps in (8, 11):
        with pytest.raises(
            RunFolderError,
            match=f"max_steps makes {steps} steps, but the run in .* for 12: it may only grow",
        ) as e:
            train(changed(config, training={"max_steps": steps}))
        assert "\n" not in str(e.value) and "checkpoint.start_from=" in str(e.value)
    epochs = changed(config, training={"max_steps": None, "num_epochs": 3})  # 6 batches each
    assert train(epochs).steps == 18


@pytest.mark.slow
def test_a_longer_cosine_is_that_of_the_new_number_of_steps(tiny_config, caplog):
    optimizer = {"schedule": "cosine", "learning_rate": 1e-3}
    config = tiny_config("sft", training={"max_steps": 4, **SHORT}, optimizer=optimizer)
    train(config)
    train(changed(config, training={"max_steps": 8}))
    rates = [row["lr"] for row in read_metrics(config.run_dir) if row["split"] == "train"]
    section = OptimizerConfig(**optimizer)
    expected = [make_schedule(section, total_steps=4)(i) for i in range(4)] + [
        make_schedule(section, total_steps=8)(i) for i in range(4, 8)
    ]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    assert "after step 4 the learning rate is 0.0005, not 0" in caplog.text


@pytest.mark.slow
def test_an_unchanged_start_from_gives_the_same_bits(tiny_config, tmp_path, caplog):
    whole = train(
        tiny_config("dpo", run_dir=tmp_path / "whole", training={"max_steps": 8, **SHORT})
    )
    config = tiny_config(
        "dpo",
        run_dir=tmp_path / "second",
        training={"max_steps": 8, **SHORT},
        checkpoint={"start_from": f"{whole.run_dir}@4"},
    )
    with caplog.at_level(logging.INFO):
        result = train(config)
    assert "start from step 4 of" in caplog.text and "nothing changed" in caplog.text
    rows = [row["step"] for row in read_metrics(result.run_dir) if row["split"] == "train"]
    assert rows == [5, 6, 7, 8]
    for a, b in zip(params_of(result.export_dir), params_of(whole.export_dir), strict=True):
        np.testing.assert_array_equal(a, b)
    again = train(changed(config, training={"max_steps": 9}))  # by its own checkpoint
    assert again.steps == 9


@pytest.mark.slow
def test_changes_are_allowed_and_listed(tiny_config, tmp_path, caplog):
    first = train(
        tiny_config("dpo", run_dir=tmp_path / "first", training={"max_steps": 4, **SHORT})
    )
    refused = tiny_config(
        "dpo",
        run_dir=tmp_path / "first",
        training={"max_steps": 6, **SHORT},
        optimizer={"learning_rate": 1e-4},
    )
    with pytest.raises(RunFolderError, match="learning_rate: 0.003 -> 0.0001") as error:
        train(refused)
    offered = str(error.value).partition("start the same command with run_dir=")[2]
    run_dir, start_from = offered.split(" checkpoint.start_from=")
    assert (run_dir, start_from) == (f"{first.run_dir}-2", str(first.run_dir))
    onward = dataclasses.replace(
        changed(refused, checkpoint={"start_from": start_from}), run_dir=run_dir
    )
    with caplog.at_level(logging.INFO):
        result = train(onward)
    assert (
        "optimizer.learning_rate: 0.003 -> 0.0001" in caplog.text
        and "training.max_steps: 4 -> 6" in caplog.text
    )
    rows = [row for row in read_metrics(result.run_dir) if row["split"] == "train"]
    assert [row["step"] for row in rows] == [5, 6] and rows[0]["lr"] == pytest.approx(1e-4)
    other = changed(onward, optimizer={"name": "lion"})
    caplog.clear()
    train(dataclasses.replace(other, run_dir=str(tmp_path / "lion")))
    assert "opt_state of" in caplog.text and "it begins anew" in caplog.text


@pytest.mark.slow
def test_other_data_begin_with_their_first_row(tiny_config, tmp_path, caplog):
    first = train(
        tiny_config("sft", run_dir=tmp_path / "first", training={"max_steps": 5, **SHORT})
    )
    start = {"start_from": str(first.run_dir)}
    data = {"path": "synthetic:arithmetic?size=44&max_operand=8"}
    config = tiny_config(
        "sft",
        run_dir=tmp_path / "b",
        data=data,
        checkpoint=start,
        training={"max_steps": None, "num_epochs": 1, **SHORT},
    )
    result = train(config)
    assert result.steps == 5 + 4 and "the run begins with the first of them" in caplog.text
    epochs = [row["epoch"] for row in read_metrics(result.run_dir) if row["split"] == "train"]
    assert epochs == [0.25, 0.5, 0.75, 1.0]
    assert train(changed(config, training={"num_epochs": 2})).steps == 5 + 8


@pytest.mark.slow
def test_what_cannot_be_started_from(tiny_config, tmp_path):
    first = tiny_config("sft", run_dir=tmp_path / "first", training={"max_steps": 4, **SHORT})
    train(first)
    for text, message, code in (
        (f"{first.run_dir}@3", r"no checkpoint of step 3; there are 4$", 4),
        (f"{first.run_dir}-absent", "holds no config.yaml, so it is no run folder$", 2),
        (str(tmp_path / "second"), "is run_dir itself: give another run_dir$", 2),
        (first.run_dir, "makes 4 steps in all, and step 4 of .* is to go on: raise it", 2),
    ):
        second = changed(first, checkpoint={"start_from": text})
        with pytest.raises(ValueError, match=message) as error:
            train(dataclasses.replace(second, run_dir=str(tmp_path / "second")))
        assert exit_code(error.value) == code and "\n" not in str(error.value)


@pytest.mark.slow
def test_a_checkpoint_of_another_format_is_refused(tiny_config, monkeypatch):
    """In one line that names both formats and the way on."""
    config = tiny_config("sft", training={"max_steps": 2, **SHORT})
    with monkeypatch.context() as patch:
        patch.setattr(resume, "FORMAT", 1)
        train(config)
    onward = changed(config, checkpoint={"start_from": config.run_dir})
    longer = changed(config, training={"max_steps": 4})
    for refused in (longer, dataclasses.replace(onward, run_dir=f"{config.run_dir}-2")):
        with pytest.raises(CheckpointError, match="format 1, this version .* reads format 2") as e:
            train(refused)
        assert exit_code(e.value) == 4 and "\n" not in str(e.value)
        assert f"model.path={config.run_dir}/export" in str(e.value)


def test_another_kind_of_data_is_refused(tiny_config, tmp_path):
    first = train(
        tiny_config("sft", run_dir=tmp_path / "first", training={"max_steps": 2, **SHORT})
    )
    config = tiny_config("dpo", checkpoint={"start_from": str(first.run_dir)})
    with pytest.raises(
        RunFolderError,
        match="is a run of sft on text, this one is of dpo on pairs: .*model.path=.*export",
    ):
        train(config)


def test_start_from_names_runs_and_steps(tmp_path):
    (tmp_path / "a@5").mkdir()
    assert parse_start_from("runs/x") == (pathlib.Path("runs/x"), None)
    assert parse_start_from("runs/x@60") == (pathlib.Path("runs/x"), 60)
    assert parse_start_from("runs/x/checkpoints/60") == (pathlib.Path("runs/x"), 60)
    assert parse_start_from(f"{tmp_path}/a@5") == (tmp_path / "a@5", None)
    assert parse_start_from(f"{tmp_path}/a@5@7") == (tmp_path / "a@5", 7)


@pytest.mark.slow
def test_an_online_run_starts_from_another_with_its_groups(
    online_config, mixed_task, tmp_path, caplog
):
    data, rewards = mixed_task
    algorithm = DAPOConfig(group_size=4, overlong_buffer_len=2)
    options = {"data": data, "rewards": rewards, "rollout": {"prompts_per_batch": 12}}
    training = {"batch_size": 2, "save_every": 1}
    whole = train(
        online_config(
            "dapo", run_dir=tmp_path / "whole", algorithm=algorithm, training=training, **options
        )
    )
    with Checkpointer(whole.run_dir / "checkpoints") as checkpointer:
        pending = checkpointer.read_meta(3)["groups"]
    assert pending > 0
    start = {"checkpoint": {"start_from": f"{whole.run_dir}@3"}}
    same = online_config(
        "dapo",
        run_dir=tmp_path / "same",
        algorithm=algorithm,
        training=training,
        **options,
        **start,
    )
    result = train(same)
    for a, b in zip(arrays(result.run_dir, 4), arrays(whole.run_dir, 4), strict=True):
        np.testing.assert_array_equal(a, b)
    assert rows_of(result.run_dir)[0]["data/groups_carried"] == pending
    caplog.clear()
    longer = options | {"rollout": {"prompts_per_batch": 12, "max_new_tokens": 6}}
    train(
        online_config(
            "dapo",
            run_dir=tmp_path / "longer",
            algorithm=algorithm,
            training=training,
            **longer,
            **start,
        )
    )
    assert f"{pending} groups carried over in" in caplog.text and "are left out" in caplog.text
    assert rows_of(tmp_path / "longer")[0]["data/groups_carried"] == 0


@pytest.mark.slow
def test_the_kl_coefficient_is_taken_over(online_config, tmp_path):
    first = train(online_config("ppo", run_dir=tmp_path / "first"))
    config = online_config(
        "ppo",
        run_dir=tmp_path / "second",
        training={"max_steps": 5},
        checkpoint={"start_from": str(first.run_dir)},
    )
    coefficients = [
        rows_of(folder)[-1]["kl/coef"] for folder in (first.run_dir, train(config).run_dir)
    ]
    assert coefficients[0] != coefficients[1] and coefficients[1] == pytest.approx(
        coefficients[0], rel=0.2
    )


@pytest.mark.slow
def test_a_changed_reward_file_is_told_on_resume(online_config, mixed_task, tmp_path, caplog):
    data, rewards = mixed_task
    config = online_config("grpo", data=data, rewards=rewards)
    assert train(config, sampler=stopping_after(3), progress=False).interrupted
    path = tmp_path / "task.py"
    path.write_text(path.read_text() + "\n# another opinion\n")
    train(config, progress=False)
    assert "the file of the reward grade changed since the checkpoint was made" in caplog.text


def test_digests_are_of_files_and_modules(tmp_path, online_config):
    (tmp_path / "mine.py").write_text("def f(completions): return [0.0]")
    names = ("math", f"{tmp_path / 'mine.py'}:f", "tests.rewards.graders:rank", "no_such_module:g")
    config = online_config("grpo", rewards=tuple(RewardConfig(function=name) for name in names))
    before = reward_digests(config)
    assert before.keys() == {"f", "rank", "g"}
    (tmp_path / "mine.py").write_text("def f(completions): return [1.0]")
    after = reward_digests(config)
    assert after["rank"] == before["rank"] and after["f"] != before["f"]


@pytest.mark.slow
def test_damaged_reference_logps_are_computed_anew(tiny_config, tmp_path, caplog):
    config = tiny_config("dpo", run_dir=tmp_path / "run", training={"max_steps": 2, **SHORT})
    train(config)
    whole = values(config.run_dir)
    kept = {
        path: path.read_bytes() for path in (tmp_path / "run" / "cache").glob("ref_logps-*.npy")
    }
    assert len(kept) == 2
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    shutil.rmtree(tmp_path / "run" / "export")
    for path, damage in zip(kept, ("bit in the middle", "half"), strict=True):
        path.write_bytes(DAMAGES[damage](kept[path]))
    train(config)
    assert values(config.run_dir) == whole
    assert caplog.text.count("are damaged") == 2 and "Traceback" not in caplog.text
    assert {path: path.read_bytes() for path in kept} == kept


@pytest.mark.slow
@pytest.mark.usefixtures("hangups")
def test_a_hangup_saves(tiny_config):
    config = tiny_config("sft", training={"max_steps": 400, "eval_every": 0, "save_every": 0})
    watcher = _signal_at(config.run_dir, 5, signal.SIGHUP)
    result = train(config)
    watcher.join()
    assert (
        result.interrupted
        and (pathlib.Path(config.run_dir) / "checkpoints" / str(result.steps)).is_dir()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("free", "told"), [(10**12, "are kept"), (400_000, "the disk will be full"), (1000, None)]
)
def test_room_is_compared_at_the_start(tiny_config, monkeypatch, caplog, free, told):
    monkeypatch.setattr(space, "free_bytes", lambda path: free)
    config = tiny_config("sft", training={"max_steps": 2, "eval_every": 0, "save_every": 1})
    if told is None:
        with pytest.raises(
            RunFolderError,
            match=r"not even one checkpoint fits: a checkpoint is 3\d\d kB, 2 are kept",
        ) as error:
            train(config)
        assert exit_code(error.value) == 2 and "\n" not in str(error.value)
        return
    with caplog.at_level(logging.INFO):
        train(config)
    line = next(record for record in caplog.records if "a checkpoint is" in record.getMessage())
    assert told in line.getMessage() and "the export is" in line.getMessage()
    assert (line.levelname == "WARNING") == (free < 10**9)


@pytest.mark.slow
def test_a_full_disk_while_exporting_costs_nothing(tiny_config, monkeypatch):
    from rlhf_jax.models import export

    def full(tensors, path, metadata):
        pathlib.Path(path).write_bytes(b"half")
        raise export.SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    config = tiny_config("sft", training={"max_steps": 2, "eval_every": 0})
    monkeypatch.setattr(export, "save_file", full)
    with pytest.raises(
        OSError,
        match=r"No space left on device \(the checkpoint of step 2 is whole.*model.safetensors'",
    ) as error:
        train(config)
    assert error.value.errno == errno.ENOSPC and exit_code(error.value) == 1
    assert not list((pathlib.Path(config.run_dir) / "export").glob("*.part"))
    monkeypatch.undo()
    assert train(config).export_dir.joinpath("model.safetensors").stat().st_size > 1000


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_by_every_command(tiny_config, capsys, monkeypatch):
    from rlhf_jax.cli.main import main

    config = tiny_config("sft", training={"max_steps": 4, "eval_every": 0, "save_every": 2})
    run_dir = pathlib.Path(train(config).run_dir)
    logger = logging.getLogger("rlhf_jax")
    monkeypatch.setattr(logger, "propagate", logger.propagate)
    file = max(
        (run_dir / "checkpoints" / "4" / "params").rglob("d/*"),
        key=lambda path: path.stat().st_size,
    )
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    for command in (
        ["train", str(run_dir / "config.yaml"), "--no-progress", "training.max_steps=6"],
        ["export", str(run_dir), str(run_dir / "again")],
        ["evaluate", str(run_dir)],
    ):
        assert main(command) == 4
        errors = [
            line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")
        ]
        assert (
            len(errors) == 1
            and "checkpoints/4/params" in errors[0]
            and "the checkpoint of step 2 is whole" in errors[0]
        )
    assert main(["export", str(run_dir), str(run_dir / "again"), "--step", "2"]) == 0
    shutil.rmtree(run_dir / "checkpoints" / "4")  # what the message offers
    assert (
        main(["train", str(run_dir / "config.yaml"), "--no-progress", "training.max_steps=6"]) == 0
    )
