"""Several processes make one comparison: nothing is made twice, and nobody waits for one piece."""

import fcntl
import json
import subprocess
import sys

import pytest
import yaml

from rlhf_jax.config import make_compare
from rlhf_jax.io import read_metrics
from rlhf_jax.runs import share as sharing
from rlhf_jax.runs.cells import CELL
from rlhf_jax.runs.making import Making, measured_start
from rlhf_jax.runs.share import Taken, share, taking
from rlhf_jax.runs.story import Story
from rlhf_jax.runs.tuning import kept_trial
from tests.runs.test_protocol import tree


@pytest.fixture
def config(tmp_path):
    return make_compare(tree(tmp_path / "run"))


def test_what_another_process_is_at_is_put_off(monkeypatch, caplog):
    calls, pauses = [], []
    monkeypatch.setattr(sharing.time, "sleep", pauses.append)

    def make(piece):
        calls.append(piece)
        if piece == "b" and calls.count("b") < 4:
            raise Taken
        return piece.upper()

    with caplog.at_level("INFO"):
        assert share(list("abc"), make) == ["A", "B", "C"]
    assert calls == list("abc") + ["b"] * 3, "the others first"
    assert len(pauses) == 2 and caplog.text.count("waiting for 1 that other processes are at") == 1


def test_a_stage_is_taken_by_one_process_at_a_time(config):
    stage = config.runs[2]
    script = (
        "import fcntl, pathlib, sys\n"
        "file = open(sys.argv[1], 'a')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('at it', flush=True)\n"
        "input()\n"
    )
    with taking(config, stage, 1):
        pass
    (path,) = (config.folder(stage, 1).parents[1] / sharing.FOLDER).iterdir()
    command = [sys.executable, "-c", script, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == "at it\n"
        with pytest.raises(Taken), taking(config, stage, 1):
            pass
        with taking(config, stage, 0):
            pass
        other.kill()
    with taking(config, stage, 1):
        pass


def test_a_trial_and_a_start_are_measured_once(config, monkeypatch):
    whole, trial = config.trial("grpo", 1e-3)
    config.folder(trial, 100).mkdir(parents=True)
    values = iter([{"accuracy/greedy": 0.25}, {"accuracy/greedy": 0.5}])
    twice = [kept_trial(whole, trial, 100, lambda: next(values)) for _ in range(2)]
    assert twice == [{"accuracy/greedy": 0.25}] * 2
    changed, other = make_compare(tree(config.run_dir), ["prompts.evaluation.max_prompts=4"]).trial(
        "grpo", 1e-3
    )
    assert kept_trial(changed, other, 100, lambda: next(values)) == {"accuracy/greedy": 0.5}

    found = iter([{"accuracy/greedy": 0.5}, {"accuracy/greedy": float("nan")}])
    monkeypatch.setattr("rlhf_jax.runs.making.evaluate_folder", lambda measuring: next(found))
    config.folder(config.start, 0).mkdir(parents=True)
    config.folder(config.start, 1).mkdir(parents=True)
    assert [measured_start(config, 0) for _ in range(2)] == [{"accuracy/greedy": 0.5}] * 2
    for _ in range(2):
        assert str(measured_start(config, 1)) == "{'accuracy/greedy': nan}"


def test_a_start_that_another_process_makes_is_not_begun(config):
    path = config.folder(config.start, 0).parents[1] / sharing.FOLDER / "sft_seed_0"
    path.parent.mkdir(parents=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Taken):
            Making(False, Story(1)).start(config, 0)
    assert not config.folder(config.start, 0).exists()


@pytest.mark.slow
def test_two_processes_share_a_comparison(tmp_path):
    config = make_compare(tree(tmp_path / "run"))
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(tree(tmp_path / "run")))
    command = [sys.executable, "-m", "rlhf_jax", "compare", str(tmp_path / "compare.yaml")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    both = [subprocess.Popen([*command, "--no-progress"], **pipes) for _ in range(2)]
    texts = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    cells = {
        (stage.name, seed): json.loads((config.folder(stage, seed) / CELL).read_text())
        for stage in config.runs
        for seed in config.seeds
    }
    makers = {cell["environment"]["process"] for cell in cells.values()}
    assert len(makers) == 2, "both had a part in it"
    for place in tmp_path.glob("run/**/sessions.json"):
        # What was finished is looked at again, and nothing is left to train.
        first, *again = json.loads(place.read_text())
        assert first.get("resumed_after") is None and first["ended"] == "finished"
        steps = max(row["step"] for row in read_metrics(place.parent))
        assert all(session.get("resumed_after") == steps for session in again)
    for text in texts:
        assert all(stage.name in text for stage in config.runs), "each ends with the whole table"
