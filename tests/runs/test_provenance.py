"""What a run notes of its sessions."""

import json
import os
import subprocess

import jax
import pytest
import yaml

import rlhf_jax
from rlhf_jax.runs import provenance
from rlhf_jax.runs.provenance import note_end, note_session, read_sessions, source_state


def test_a_session_says_what_it_ran_on(tmp_path):
    note_session(tmp_path, None)
    (session,) = read_sessions(tmp_path)
    assert session["rlhf_jax"] == rlhf_jax.__version__ and session["jax"] == jax.__version__
    assert (session["platform"], session["devices"]) == ("cpu", jax.device_count())
    assert session["resumed_after"] is None and "ended" not in session


def test_sessions_add_up_and_only_the_own_one_is_ended(tmp_path):
    note_session(tmp_path, None)
    note_end(tmp_path, "interrupted")
    note_end(tmp_path, "finished")
    note_session(tmp_path, 7)
    note_end(tmp_path, "finished")
    found = read_sessions(tmp_path)
    assert [session["ended"] for session in found] == ["interrupted", "finished"]
    assert [session["resumed_after"] for session in found] == [None, 7]
    note_session(tmp_path, None)
    assert len(read_sessions(tmp_path)) == 1, "a run that starts anew"


def test_a_session_of_another_process_is_not_ended(tmp_path):
    """It was killed, and this start was refused before it had a session."""
    session = {"process": os.getpid() + 1}
    (tmp_path / "sessions.json").write_text(json.dumps([session]))
    note_end(tmp_path, "ConfigError: no")
    assert read_sessions(tmp_path) == [session]
    note_end(tmp_path / "nothing", "finished")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("text", ["", "{", "{}", "[1, null]"])
def test_a_damaged_file_is_no_session(tmp_path, text):
    (tmp_path / "sessions.json").write_text(text)
    assert read_sessions(tmp_path) == []


def test_a_full_disk_costs_nothing_but_the_note(tmp_path, monkeypatch, caplog):
    note_session(tmp_path, None)

    def full(source, target):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(provenance.os, "replace", full)
    note_end(tmp_path, "finished")
    assert "No space left" in caplog.text and "ended" not in read_sessions(tmp_path)[0]


def test_the_commit_is_that_of_the_package_not_of_whatever_is_around_it(tmp_path):
    package = tmp_path / "lib" / "package"
    package.mkdir(parents=True)
    (package / "x.py").write_text("1\n")

    def git(*arguments, folder):
        author = ["-c", "user.name=x", "-c", "user.email=x@example.invalid"]
        subprocess.run(["git", "-C", folder, *author, *arguments], check=True, capture_output=True)

    git("init", folder=tmp_path)
    assert source_state(package)[1] is None, "the repository around it is somebody else's"
    git("init", folder=package.parent)
    git("add", ".", folder=package.parent)
    git("commit", "-m", "x", folder=package.parent)
    commit, is_changed = source_state(package)
    assert len(commit) == 40 and is_changed is False
    (package / "x.py").write_text("2\n")
    assert source_state(package) == (commit, True)


def test_a_changed_file_of_ones_own_is_named_on_resume(tmp_path, caplog):
    loss = tmp_path / "mine.py"
    loss.write_text("def f(pair): ...\n")
    tree = {
        "algorithm": {"loss_type": [f"{loss}:f", "sft"]},
        "rewards": [{"function": "absent.py:g"}],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    note_session(tmp_path, None)
    assert list(read_sessions(tmp_path)[0]["files"]) == [str(loss)]
    note_session(tmp_path, 2)
    assert not caplog.records
    loss.write_text("def f(pair): return 2 * pair\n")
    note_session(tmp_path, 4)
    assert f"{loss} has changed since the session before" in caplog.text


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux tells the cores")
def test_the_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3})
    assert provenance.describe_environment()["cpu_cores"] == 1
