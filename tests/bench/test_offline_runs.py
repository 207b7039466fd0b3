"""Whole runs against TRL's: its side is a stand-in for an interpreter with torch, which writes what
TRL's would; what is asked of it, and what is made of its answer, is real."""

import argparse
import json
import math
import pathlib
import stat
import sys

import pytest

from rlhf_jax.bench import dpo_equivalence, offline_runs, trl_offline, trl_sides
from rlhf_jax.bench.offline_runs import Run
from rlhf_jax.bench.outcome import show

STAND_IN = """#!{python}
import json, os, pathlib, sys
starter, module, algorithm, model, rows, out = sys.argv[1:7]
given = dict(zip(sys.argv[7::2], sys.argv[8::2]))
assert pathlib.Path(starter).name == "start_side.py" and module == "rlhf_jax.bench.trl_offline"
given |= {{"algorithm": algorithm, "model": model, "threads": os.environ["OMP_NUM_THREADS"]}}
given |= {{"rows": len(open(rows).readlines()), "cores": len(os.sched_getaffinity(0))}}
pathlib.Path({seen!r}).write_text(json.dumps(given))
if {fails}:
    sys.exit("ModuleNotFoundError: No module named 'trl'")
steps = int(given["--steps"])
found = {{"loss": [{loss}] * steps, "seconds": [9.0, 9.0] + [2.0] * (steps - 2)}}
found |= {{"margin": [0.25] * steps, "held_out": {{"loss": 0.5, "accuracy": 0.75}}}}
pathlib.Path(out).write_text(json.dumps(found | {{"versions": {{"trl": "1.16"}}}}))
"""


@pytest.fixture
def stand_in(tmp_path):
    """(loss, fails) -> path of an interpreter that TRL seems to run in; it notes what it is told in
    `seen.json`."""

    def write(*, loss=0.5, fails=False):
        path = tmp_path / "python"
        seen = str(tmp_path / "seen.json")
        path.write_text(STAND_IN.format(python=sys.executable, seen=seen, loss=loss, fails=fails))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return write


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 20)
    return path


@pytest.fixture
def ours(monkeypatch):
    """Our own side, without the run."""
    monkeypatch.setattr(
        offline_runs, "run_ours", lambda *args: Run([0.5] * 4, [1.0, 1.0], 2 * 10**9)
    )


def options(rows, python):
    command = ["dpo", "some/model", str(rows), "--python", python, "--steps", "4"]
    return [*command, "--batch-size", "3", "--threads", "1", "--rounds", "2"]


def test_trl_is_asked_for_the_same_run(stand_in, rows, ours, tmp_path, capsys):
    assert offline_runs.main(options(rows, stand_in())) == 0
    printed = capsys.readouterr().out
    assert "dpo, 4 steps of 3 rows, model, float32, 1 threads, 2 rounds" in printed
    assert "losses agree within 0.0e+00 relative (required: 0.002)" in printed
    # Without its two first steps: 2 s against 1 s; memory is what the system says of the process.
    assert "rlhf_jax    1000.0 ms  (1000.0 .. 1000.0)   x 1   peak 2.00 GB" in printed
    # (At least: a process begins with the peak of the one that started it.)
    assert "TRL         2000.0 ms  (2000.0 .. 2000.0)   x 2.00   peak " in printed
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen == {
        "algorithm": "dpo",
        "model": "some/model",
        "rows": 12,
        "threads": "1",
        "cores": 1,
        "--steps": "4",
        "--batch-size": "3",
        "--max-length": "256",
        "--learning-rate": "1e-06",
        "--reference": "precomputed",
        "--threads": "1",
    }


def test_no_ratio_for_other_losses(stand_in, rows, ours, capsys):
    assert offline_runs.main(options(rows, stand_in(loss=0.502))) == 1
    assert "GB" not in capsys.readouterr().out


def test_a_reward_models_losses_are_not_compared(capsys):
    runs = {"rlhf_jax": [Run([0.5], [1.0], 10**9)], "TRL": [Run([0.9], [3.0], 4 * 10**9)]}
    assert show([offline_runs.report("rm", runs, same_start=False)]) == 0
    printed = capsys.readouterr().out
    assert "agree" not in printed and "x 3.00   peak 4.00 GB" in printed
    assert show([offline_runs.report("rm", runs, same_start=True)]) == 1


def test_a_side_that_fails_says_why(stand_in, rows, ours):
    with pytest.raises(SystemExit, match="the side 'TRL' failed .*\n.*No module named 'trl'"):
        offline_runs.main(options(rows, stand_in(fails=True)))


def test_too_few_rows_are_refused(rows, ours, capsys):
    with pytest.raises(SystemExit):
        offline_runs.main(["sft", "some/model", str(rows), "--steps", "6"])
    assert "has 20 rows, fewer than steps x batch size" in capsys.readouterr().err


def test_equivalence_reads_trls_losses(stand_in, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(dpo_equivalence, "run_ours", lambda *args: [0.5, 0.5])
    monkeypatch.setattr(dpo_equivalence, "export_start", lambda folder: folder)
    command = ["--steps", "2", "--batch-size", "3", "--python"]
    assert dpo_equivalence.main([*command, stand_in(loss=0.5001)]) == 0
    printed = capsys.readouterr().out
    assert "against {'trl': '1.16'}, 2 steps of 3 pairs" in printed
    assert "relative difference 2.00e-04" in printed
    seen = json.loads((tmp_path / "seen.json").read_text())
    # TRL's defaults of this comparison: the reference in every step, rows of any length.
    assert "--reference" not in seen and "--max-length" not in seen
    assert dpo_equivalence.main([*command, stand_in(loss=0.51)]) == 1


def test_the_command_line_of_trls_side_takes_what_is_asked(monkeypatch, tmp_path):
    """What `train_elsewhere` passes on is what `main` understands."""
    asked = []

    def run_alone(name, command, *, threads, log):
        asked.append(command)
        trl_offline.main(command[3:])
        return 7

    def run(args):
        given = [args.steps, args.batch_size, args.max_length, args.threads]
        found = {"loss": given, "seconds": [1.0], "versions": {"trl": args.algorithm}}
        return found | {"margin": [args.schedule], "held_out": {"loss": args.label_smoothing}}

    monkeypatch.setattr(trl_offline, "run_alone", run_alone)
    monkeypatch.setattr(trl_offline, "run", run)
    found = trl_offline.train_elsewhere(
        "sft",
        pathlib.Path("model"),
        pathlib.Path("rows"),
        tmp_path / "out.json",
        python="python-with-trl",
        threads=3,
        steps=5,
        batch_size=4,
        max_length=32,
        learning_rate=1e-3,
        reference="online",
        schedule="constant",
        label_smoothing=0.25,
    )
    assert found == trl_offline.Trained(
        [5, 4, 32, 3], [1.0], {"trl": "sft"}, 7, ["constant"], {"loss": 0.25}
    )
    assert asked[0][0] == "python-with-trl"


def test_options_of_a_trainer_win():
    assert trl_sides.trainer_options(logging_steps=1)["logging_steps"] == 1
    assert trl_sides.trainer_options()["report_to"] == []


@pytest.mark.slow
def test_our_own_side_of_a_whole_run(tmp_path, rows):
    """Starts `rlhf-jax train` and reads its losses, seconds and memory."""
    start = dpo_equivalence.export_start(tmp_path / "start")
    (tmp_path / "rows.jsonl").write_text("".join(rows.read_text()))
    args = argparse.Namespace(
        algorithm="dpo",
        model=start,
        batch_size=4,
        steps=3,
        max_length=32,
        learning_rate=1e-3,
        threads=2,
    )
    side = offline_runs.run_ours(tmp_path, args, 0)
    assert len(side.losses) == 3 and len(side.seconds) == 1 and side.peak > 10**8
    assert side.losses[0] == pytest.approx(math.log(2), rel=1e-4)
