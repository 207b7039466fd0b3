"""`rlhf-jax launch`: several programs as one. Stand-ins without JAX take the place of training."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from rlhf_jax.cli import launch
from rlhf_jax.cli.main import main


@pytest.fixture
def programs(monkeypatch):
    """Gives every process a Python program in place of `rlhf-jax train`; lists those started."""
    started = []

    def use(*sources):
        def start(command, environment, number):
            process = subprocess.Popen(
                [sys.executable, "-S", "-c", sources[number]],
                env=environment,
                stdout=subprocess.PIPE if number else None,
                stderr=subprocess.PIPE if number else None,
                text=True,
                process_group=0,
            )
            started.append(process)
            return process

        monkeypatch.setattr(launch, "start", start)
        return started

    yield use
    for process in started:
        process.kill()
        process.wait()


def run(count=2, *options):
    return main(["launch", "--processes", str(count), *options, "--", "train", "config.yaml"])


SLEEP = "import time; time.sleep(60)"
PLACE = (
    "import os; print(*(os.environ[name] for name in ('RLHF_JAX_PROCESS_ID', "
    "'RLHF_JAX_NUM_PROCESSES', 'JAX_NUM_CPU_DEVICES', 'CUDA_VISIBLE_DEVICES')))"
)


def test_each_knows_its_place_and_the_others_are_numbered(programs, capfd, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    programs(PLACE, PLACE)
    assert run(2, "--devices-per-process", "2") == 0
    captured = capfd.readouterr()
    assert captured.out == "0 2 2 4,5\n"
    assert captured.err == "[1] 1 2 2 6,7\n"


def test_too_few_gpus_are_refused_before_anything_starts(capfd, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    assert run(2, "--devices-per-process", "2") == 2
    line = "--processes 2 --devices-per-process 2 need 4 GPUs, and CUDA_VISIBLE_DEVICES=4,5,6"
    assert line in capfd.readouterr().err


def test_hidden_gpus_stay_hidden():
    for number in range(2):
        environment = launch.environment_of(number, 2, 1, 2, {"CUDA_VISIBLE_DEVICES": ""})
        assert environment["CUDA_VISIBLE_DEVICES"] == ""


def test_all_have_one_coordinator(programs, capfd):
    source = "import os; print(os.environ['RLHF_JAX_COORDINATOR'])"
    programs(source, source)
    assert run() == 0
    captured = capfd.readouterr()
    assert "[1] " + captured.out == captured.err
    assert captured.out.startswith("127.0.0.1:")


def test_the_one_that_dies_is_named_and_ends_the_others(programs, capfd, monkeypatch):
    monkeypatch.setattr(launch, "END_SECONDS", 0.2)
    started = programs(SLEEP, "import os; os.kill(os.getpid(), 9)")
    assert run() == 128 + signal.SIGKILL
    assert "error: process 1 of 2 was ended by SIGKILL" in capfd.readouterr().err
    assert started[0].returncode == -signal.SIGTERM


def test_who_was_lost_is_named_not_who_noticed(programs, capfd, tmp_path):
    # Process 0 reads until the other end of the pipe is closed by the death of process 1.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    notices = f"import sys; open({str(pipe)!r}).read(); sys.exit(6)"
    dies = f"import sys; held = open({str(pipe)!r}, 'w'); sys.exit(1)"
    programs(notices, dies)
    assert run() == 1
    assert "process 1 of 2 ended with exit code 1" in capfd.readouterr().err


def test_who_does_not_heed_sigterm_is_killed(programs, monkeypatch):
    monkeypatch.setattr(launch, "END_SECONDS", 0.5)
    monkeypatch.setattr(launch, "KILL_SECONDS", 0.3)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    started = programs(deaf, "import sys; sys.exit(1)")
    assert run() == 1
    assert started[0].returncode == -signal.SIGKILL


@pytest.mark.parametrize(("code", "starts"), [(6, 3), (5, 1), (0, 1)])
def test_restarts_only_what_a_restart_may_change(code, starts, programs):
    source = f"import sys; sys.exit({code})"
    started = programs(source, source)
    assert run(2, "--restarts", "2") == code
    assert len(started) == 2 * starts


def test_a_signal_goes_to_all_once_and_is_no_reason_to_restart(programs):
    heed = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(130)); "
        "time.sleep(60)"
    )
    started = programs(heed, heed)

    def ask():
        while len(started) < 2:
            time.sleep(0.01)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask).start()
    assert run(2, "--restarts", "3") == 130
    assert [process.returncode for process in started] == [130, 130]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "0", "--", "train", "c"], "--processes 0 must be at least 1"),
        (["--processes", "2", "--", "evaluate", "c"], "launch starts training"),
        (["--processes", "2"], "launch starts training"),
    ],
)
def test_mistakes(arguments, message, capsys):
    assert main(["launch", *arguments]) == 2
    assert message in capsys.readouterr().err
