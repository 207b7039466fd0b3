"""The run folder: what is written, who may start in it, progress and plot."""

import errno
import fcntl
import logging
import math
import sys

import pytest

from rlhf_jax.cloud import AddressError
from rlhf_jax.config import Config, make_config
from rlhf_jax.io import (
    MetricsError,
    RunFolder,
    RunFolderError,
    read_metrics,
    run_folder,
)


def config(path, **changes: str) -> Config:
    tree = {
        "algorithm": {"name": "dpo"},
        "run_dir": str(path),
        "data": {"path": "x"},
        "model": {"path": "m"},
    }
    return make_config(
        tree, [f"{key.replace('__', '.')}={value}" for key, value in changes.items()]
    )


def run(path, *, steps=range(1, 4), resume_step=None, **changes):
    with RunFolder(config(path, **changes), resume_step=resume_step, progress=False) as folder:
        folder.start(total_steps=3)
        for step in steps:
            metrics = {"loss/total": 1.0 / step, "lr": 0.1}
            folder.show(step, metrics)
            folder.write(step, metrics)
        folder.write(3, {"loss/total": 0.25, "rewards/accuracy": 0.75}, split="eval")
    return folder


def test_what_a_run_leaves(tmp_path):
    folder = run(tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "config.yaml",
        "metrics.jsonl",
        "log.txt",
        "metrics.png",
        "tensorboard",
        ".lock",
    }
    assert (tmp_path / "run" / "config.yaml").read_text() == config(tmp_path / "run").to_yaml()
    last = folder.last_metrics()
    assert last == {
        "loss/total": 0.25,
        "rewards/accuracy": 0.75,
        "train/loss/total": pytest.approx(1 / 3),
        "train/lr": 0.1,
    }
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "step 1/3: loss 1.000 · 0:00 elapsed\n" in log
    assert "step 3/3: loss 0.333 (-0.667) · 0:00 elapsed, 0:00 left\n" in log
    assert "step 3/3 held-out: loss 0.250 · pairs right 75%" in log
    assert (tmp_path / "run" / "metrics.png").read_bytes().startswith(b"\x89PNG")


def test_outputs_can_be_switched_off(tmp_path):
    run(tmp_path / "run", logging__tensorboard="false", logging__plot="false")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "log.txt",
        ".lock",
    }


def test_logging_is_left_as_it_was(tmp_path):
    logger = logging.getLogger("rlhf_jax")
    before = (logger.level, list(logger.handlers))
    run(tmp_path / "run")
    with (
        pytest.raises(MetricsError, match="needs the package wandb"),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setitem(sys.modules, "wandb", None)
        run(tmp_path / "other", logging__wandb="true")
    assert (logger.level, logger.handlers) == before


def test_an_error_is_noted_in_the_log_file(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        RunFolder(config(tmp_path / "run"), progress=False) as folder,
    ):
        folder.start(total_steps=3)
        folder.write(1, {"loss/total": math.nan})
        raise ZeroDivisionError("on\npurpose")
    assert (
        "ERROR stopped: ZeroDivisionError: on purpose" in (tmp_path / "run" / "log.txt").read_text()
    )
    assert not (tmp_path / "run" / "metrics.png").exists()


def untimed(folder):
    return [
        {name: value for name, value in row.items() if name != "time/elapsed"}
        for row in read_metrics(folder)
    ]


def test_resuming_keeps_rows_up_to_the_checkpoint(tmp_path):
    run(tmp_path / "run")
    whole = untimed(tmp_path / "run")
    run(tmp_path / "run", steps=[2, 3], resume_step=1)
    assert untimed(tmp_path / "run") == whole
    elapsed = [row["time/elapsed"] for row in read_metrics(tmp_path / "run")]
    assert elapsed == sorted(elapsed) and elapsed[0] > 0
    assert "resume after step 1" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("changes", "resume_step", "message"),
    [
        (
            {"checkpoint__resume": "never"},
            3,
            "is not empty and checkpoint.resume=never; give another run_dir, or resume=auto$",
        ),
        (
            {"checkpoint__resume": "must"},
            None,
            "holds no complete checkpoint and checkpoint.resume=must; ",
        ),
        (
            {"algorithm__beta": "0.2"},
            3,
            r"holds a run with another configuration \(algorithm.beta: 0.1 -> 0.2\); give another "
            r"run_dir; to go on from .*run "
            r"with changes, start the same command with run_dir=.*run-2 "
            r"checkpoint.start_from=.*run$",
        ),
        (
            {"algorithm__beta": "0.2", "seed": "1"},
            None,
            r"another configuration \(algorithm.beta: 0.1 -> 0.2 and 1 more\); ",
        ),
    ],
)
def test_two_runs_are_not_mixed(tmp_path, changes, resume_step, message):
    run(tmp_path / "run", logging__plot="false", logging__tensorboard="false")
    with pytest.raises(RunFolderError, match=message) as error:
        RunFolder(config(tmp_path / "run", **changes), resume_step=resume_step)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "changes"),
    [("run_dir", {}), ("checkpoint.start_from", {"checkpoint__start_from": "az://b/run"})],
)
def test_an_address_that_cannot_be_used_is_no_folder(tmp_path, monkeypatch, key, changes):
    monkeypatch.chdir(tmp_path)
    path = "run" if changes else "az://b/run"
    with pytest.raises(AddressError, match=f"{key}=az://b/run is neither a folder nor a bucket"):
        RunFolder(config(path, **changes))
    assert not list(tmp_path.iterdir())


def test_two_processes_do_not_share_a_folder(tmp_path):
    quiet = {"logging__plot": "false", "logging__tensorboard": "false"}
    with RunFolder(config(tmp_path / "run", **quiet), progress=False):
        log = (tmp_path / "run" / "log.txt").read_text()
        with pytest.raises(
            RunFolderError, match="run is in use by another process; wait for it"
        ) as error:
            run(tmp_path / "run", **quiet)
        assert "\n" not in str(error.value)
        assert (tmp_path / "run" / "log.txt").read_text() == log
    run(tmp_path / "run", **quiet)


def test_a_lock_alone_does_not_make_a_folder_used(tmp_path):
    (tmp_path / ".lock").touch()
    run(tmp_path, checkpoint__resume="never")
    assert (tmp_path / "config.yaml").is_file()


@pytest.mark.parametrize("names", [("log.txt",), (".lock", "log.txt", "config.yaml.tmp")])
def test_what_a_start_leaves_that_found_no_room_for_the_configuration_is_no_run(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("")
    run(tmp_path, logging__plot="false")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "log.txt").touch()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(RunFolderError, match="holds no config.yaml"):
        run(tmp_path / "other")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.write_text(""), "has no rows, the checkpoint is of step 3"),
        (lambda path: path.unlink(), "has no rows, the checkpoint is of step 3"),
        (
            lambda path: path.write_bytes(bytes(path.stat().st_size)),
            "has no rows, the checkpoint is of step 3",
        ),
        (
            lambda path: path.write_text(path.read_text().splitlines()[0] + "\n"),
            "ends at step 1, the checkpoint is of step 3",
        ),
        (lambda path: path.write_bytes(path.read_bytes() + bytes(100)), None),
        (lambda path: path.write_text(path.read_text()[:-4]), None),
    ],
)
def test_lost_rows_are_told_on_resume(tmp_path, caplog, damage, told):
    run(tmp_path / "run", logging__plot="false")
    damage(tmp_path / "run" / "metrics.jsonl")
    run(tmp_path / "run", resume_step=3, steps=[], logging__plot="false")
    assert (told in caplog.text) if told else "rows between are lost" not in caplog.text


def test_rows_that_were_never_written_are_not_lost(tmp_path, caplog):
    run(tmp_path / "run", steps=[2], logging__plot="false", training__log_every="2")
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    run(tmp_path / "run", resume_step=3, steps=[], logging__plot="false", training__log_every="1")
    assert "rows between are lost" not in caplog.text


class FullDisk:
    """A file on a disk without room."""

    def __init__(self, inner):
        self._inner = inner

    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self):
        self.write("")

    def close(self):
        self._inner.close()
        self.write("")

    def __getattr__(self, name):
        return getattr(self._inner, name)


def test_a_full_disk_does_not_hide_the_error_that_ended_the_run(tmp_path, caplog, capfd):
    with (
        pytest.raises(ZeroDivisionError, match="on purpose"),
        RunFolder(config(tmp_path / "run"), progress=False) as folder,
    ):
        folder.start(total_steps=3)
        folder._sinks[0]._file = FullDisk(folder._sinks[0]._file)
        folder._log_file.stream = FullDisk(folder._log_file.stream)
        raise ZeroDivisionError("on purpose")
    assert (
        f"closing {tmp_path / 'run'}: [Errno 28] No space left on device: "
        f"'{tmp_path / 'run' / 'metrics.jsonl'}'" in caplog.text
    )
    assert caplog.text.count("log.txt cannot be written") == 1
    assert "Traceback" not in capfd.readouterr().err


def test_a_full_disk_is_told_with_the_path(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*metrics.jsonl'") as error:
        with RunFolder(config(tmp_path / "run"), progress=False) as folder:
            folder.start(total_steps=3)
            folder._sinks[0]._file = FullDisk(folder._sinks[0]._file)
            folder.write(1, {"loss/total": 1.0})
    assert error.value.errno == errno.ENOSPC


def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    run(tmp_path / "run")
    assert "cannot be locked (No locks available)" in caplog.text


def test_folders_of_something_else_are_refused(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("x")
    with pytest.raises(
        RunFolderError,
        match="thesis is not empty and holds no config.yaml, so it is no run to resume",
    ):
        RunFolder(config(tmp_path / "thesis"))
    with pytest.raises(RunFolderError, match=r"chapter1.tex is a file; give a folder"):
        RunFolder(config(tmp_path / "thesis" / "chapter1.tex"))
    run(tmp_path / "done", logging__plot="false", logging__tensorboard="false")
    (tmp_path / "done" / "export").mkdir()
    with pytest.raises(RunFolderError, match="done holds a finished run without checkpoints"):
        RunFolder(config(tmp_path / "done"))


def test_a_start_that_failed_early_can_be_repeated_with_another_configuration(tmp_path):
    with (
        pytest.raises(ValueError, match="no data"),
        RunFolder(config(tmp_path / "run"), progress=False),
    ):
        for name in ("tokenizer", "cache"):
            (tmp_path / "run" / name).mkdir()
        raise ValueError("no data")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", "log.txt", "cache"}
    (tmp_path / "run" / "tokenizer").mkdir()  # as of a start that was killed
    run(tmp_path / "run", seed="5")
    assert not (tmp_path / "run" / "tokenizer").exists()
    (tmp_path / "model" / "tokenizer").mkdir(parents=True)  # no lock: nobody's start
    with pytest.raises(RunFolderError, match="holds no config.yaml"):
        run(tmp_path / "model")
    assert (tmp_path / "model" / "tokenizer").is_dir()


def test_a_service_that_refuses_leaves_the_earlier_session_as_it_was(tmp_path, monkeypatch):
    quiet = {"logging__plot": "false", "logging__tensorboard": "false"}
    run(tmp_path / "run", **quiet)
    before = (tmp_path / "run" / "config.yaml").read_bytes()

    def refuse(*arguments, **options):
        raise MetricsError("no login")

    monkeypatch.setattr(run_folder, "WandbSink", refuse)
    with pytest.raises(MetricsError, match="no login"):
        run(tmp_path / "run", resume_step=2, logging__wandb="true", **quiet)
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
    assert [row["step"] for row in read_metrics(tmp_path / "run") if row["split"] == "train"] == [
        1,
        2,
        3,
    ]


def test_a_refused_start_leaves_the_earlier_session_as_it_was(tmp_path):
    quiet = {"logging__plot": "false", "logging__tensorboard": "false"}
    run(tmp_path / "run", **quiet)
    before = {
        name: (tmp_path / "run" / name).read_bytes() for name in ("config.yaml", "metrics.jsonl")
    }
    changed = config(tmp_path / "run", **quiet, training__save_every="7")
    for resume_step in (2, None):  # row 3 goes when the run goes on
        with (
            pytest.raises(ValueError, match="refused"),
            RunFolder(changed, resume_step=resume_step, progress=False),
        ):
            raise ValueError("refused")
        assert before == {name: (tmp_path / "run" / name).read_bytes() for name in before}
    with RunFolder(changed, resume_step=2, progress=False) as folder:
        folder.start(total_steps=3)
    assert "save_every: 7" in (tmp_path / "run" / "config.yaml").read_text()
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1, 2]


@pytest.mark.parametrize("place", ["rows.jsonl/sub", "rows.jsonl/sub/deeper"])
def test_a_run_dir_that_cannot_be_made_is_named(tmp_path, place):
    (tmp_path / "rows.jsonl").touch()
    with pytest.raises(RunFolderError) as error:
        run(tmp_path / place)
    assert str(error.value).startswith(
        f"run_dir={tmp_path / place} cannot be written (Not a directory: "
    )
    assert str(error.value).endswith("; give another run_dir")


def test_a_run_dir_in_which_the_system_makes_no_folders():
    with pytest.raises(
        RunFolderError,
        match=r"^run_dir=/proc/x cannot be written \(No such file or directory: /proc/x\)",
    ):
        run("/proc/x")


def test_a_row_before_the_start_is_refused(tmp_path):
    with (
        RunFolder(config(tmp_path / "run")) as folder,
        pytest.raises(RuntimeError, match=r"call RunFolder\.start"),
    ):
        folder.write(1, {"loss": 1.0})
