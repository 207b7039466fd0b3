"""A run's files beside a bucket; a folder of the disk plays the bucket."""

import json
import logging
import os
import threading

import pytest
from etils import epath

from rlhf_jax import cloud
from rlhf_jax.errors import PeerError
from rlhf_jax.io import RunFolder, RunFolderError, bucket_lock, read_metrics, run_folder, workplace
from rlhf_jax.io.bucket_lock import BucketLock
from rlhf_jax.io.mirror import Mirror
from rlhf_jax.io.workplace import BucketPlace
from tests.io.test_run_folder import config
from tests.sharding.threads import as_processes

QUIET = {"logging__plot": "false", "logging__tensorboard": "false"}


@pytest.fixture
def quick(monkeypatch):
    """Locks whose times are those of a test."""
    monkeypatch.setattr(bucket_lock, "BEAT", 0.05)
    monkeypatch.setattr(bucket_lock, "STALE", 0.6)
    monkeypatch.setattr(bucket_lock, "SETTLE", 0.01)


@pytest.fixture
def bucket(tmp_path, monkeypatch, quick):
    """A folder that is taken for a bucket wherever a run folder is opened."""
    folder = tmp_path / "bucket"
    folder.mkdir()
    monkeypatch.setattr(run_folder, "workplace", lambda run_dir: BucketPlace(epath.Path(run_dir)))
    return folder


@pytest.fixture
def mirror(tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    return Mirror(tmp_path / "here", epath.Path(tmp_path / "there"))


def tree(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_text()
        for file in folder.rglob("*")
        if file.is_file()
    }


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_only_what_changed_is_copied(mirror, tmp_path, monkeypatch):
    sent = []
    copy = cloud.copy_file
    monkeypatch.setattr(
        cloud, "copy_file", lambda source, target: sent.append(source.name) or copy(source, target)
    )
    write(tmp_path / "here", a="1", sub__b="2")
    write(tmp_path / "here", **{"half.tmp": "x"})
    mirror.publish()
    assert tree(tmp_path / "there") == {"a": "1", "sub/b": "2"} and sorted(sent) == ["a", "b"]
    sent.clear()
    mirror.publish()
    assert sent == []
    write(tmp_path / "here", a="11")
    (tmp_path / "here" / "sub" / "b").unlink()
    mirror.publish()
    assert tree(tmp_path / "there") == {"a": "11"} and sent == ["a"]


def test_what_lies_there_is_brought_and_known(mirror, tmp_path, monkeypatch):
    write(tmp_path / "there", a="1", sub__b="2", other="3")
    mirror.bring({"a", "sub", "absent"})
    assert tree(tmp_path / "here") == {"a": "1", "sub/b": "2"}
    monkeypatch.setattr(cloud, "copy_file", None)  # nothing is to be copied back
    mirror.publish()
    # what was never brought is not taken for removed
    assert tree(tmp_path / "there") == {"a": "1", "sub/b": "2", "other": "3"}


def test_clearing_removes_both_sides(mirror, tmp_path):
    write(tmp_path / "there", sub__b="2", sub__c="3", a="1")
    mirror.bring({"sub"})
    mirror.clear({"sub", "absent"})
    assert tree(tmp_path / "there") == {"a": "1"} and tree(tmp_path / "here") == {}
    mirror.publish()
    assert tree(tmp_path / "there") == {"a": "1"}


def test_a_bucket_that_fails_is_named(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(cloud, "WAITS", (0.0,))

    def fail(source, target):
        raise ConnectionError("reset")

    monkeypatch.setattr(cloud, "copy_file", fail)
    write(tmp_path / "here", a="1")
    with pytest.raises(cloud.CloudError, match=r"there/a cannot be written: .*reset \(2 tries\)"):
        mirror.publish()


def test_a_lock_keeps_others_out_until_it_is_left(tmp_path, quick):
    first = BucketLock(epath.Path(tmp_path / ".lock"))
    first.take()
    with pytest.raises(RunFolderError, match=f"in use by another process .process {os.getpid()} "):
        BucketLock(epath.Path(tmp_path / ".lock")).take()
    first.check()
    assert first.is_seen(first.word) and not first.is_seen("other")
    first.release()
    assert not (tmp_path / ".lock").exists()
    second = BucketLock(epath.Path(tmp_path / ".lock"))
    second.take()
    second.release()


def test_a_lock_that_does_not_move_is_stale(tmp_path, quick, caplog):
    caplog.set_level(logging.INFO)
    left = {"word": "w", "by": "process 7 on gone", "beat": 3}
    (tmp_path / ".lock").write_text(json.dumps(left))
    lock = BucketLock(epath.Path(tmp_path / ".lock"))
    lock.take()
    assert "process 7 on gone is gone" in caplog.text
    lock.release()


@pytest.mark.parametrize("text", ["", "no json", "[1]"])
def test_something_else_under_the_name_of_the_lock_is_stale(tmp_path, quick, text):
    (tmp_path / ".lock").write_text(text)
    lock = BucketLock(epath.Path(tmp_path / ".lock"))
    lock.take()
    assert lock.is_seen(lock.word)
    lock.release()


def test_who_was_silent_and_lost_the_folder_ends(tmp_path, quick):
    lock = BucketLock(epath.Path(tmp_path / ".lock"))
    lock.take()
    (tmp_path / ".lock").write_text(json.dumps({"word": "w", "by": "process 7 on b", "beat": 1}))
    ended = threading.Event()
    for _ in range(100):
        if lock._taken_by:
            break
        ended.wait(0.05)
    with pytest.raises(RunFolderError, match=r"was taken over by another process .process 7 on b"):
        lock.check()
    lock.release()
    assert json.loads((tmp_path / ".lock").read_text())["word"] == "w"


def session(path, steps, *, resume_step=None, error=None, **changes):
    """One session of a run: rows of some steps, published after each of them."""
    folder = RunFolder(config(path, **QUIET, **changes), resume_step=resume_step, progress=False)
    try:
        with folder:
            folder.start(total_steps=9)
            for step in steps:
                folder.write(step, {"loss/total": float(step)})
                folder.publish()
            if error is not None:
                raise error
    except ZeroDivisionError:
        pass
    return folder


def test_a_run_leaves_its_files_in_the_bucket(bucket):
    folder = session(bucket, range(1, 4))
    assert set(tree(bucket)) == {"config.yaml", "metrics.jsonl", "log.txt"}
    assert not folder.path.exists()
    assert folder.last_metrics() == {"train/loss/total": 3.0}
    assert (bucket / "config.yaml").read_text() == config(bucket, **QUIET).to_yaml()


def test_rows_after_the_checkpoint_are_cut(bucket):
    session(bucket, range(1, 6), error=ZeroDivisionError("boom"))
    assert "stopped: ZeroDivisionError: boom" in (bucket / "log.txt").read_text()
    session(bucket, range(4, 7), resume_step=3)
    assert [row["step"] for row in read_metrics(bucket)] == [1, 2, 3, 4, 5, 6]
    log = (bucket / "log.txt").read_text()
    assert "resume after step 3" in log and "boom" in log


def test_a_refused_start_changes_nothing(bucket):
    session(bucket, range(1, 3))
    before = tree(bucket)
    with pytest.raises(RunFolderError, match="another configuration"):
        session(bucket, (), algorithm__beta="0.3")
    assert tree(bucket) == before


def test_a_fresh_start_takes_away_what_a_failed_one_left(bucket):
    (bucket / "config.yaml").write_text(config(bucket, **QUIET).to_yaml())
    (bucket / "metrics.jsonl").write_text("")
    write(bucket, tokenizer__old="x", tensorboard__old="x", completions__old="x", cache__kept="x")
    session(bucket, (1,))
    assert set(tree(bucket)) == {"config.yaml", "metrics.jsonl", "log.txt", "cache/kept"}


def test_a_failing_bucket_does_not_hide_the_error_of_the_run(bucket, monkeypatch, caplog):
    monkeypatch.setattr(cloud, "WAITS", ())
    folder = RunFolder(config(bucket, **QUIET), progress=False)

    def fail(*arguments):
        raise ConnectionError("reset")

    with pytest.raises(RuntimeError, match="of the run"), folder:
        folder.start(total_steps=3)
        monkeypatch.setattr(cloud, "copy_file", fail)
        raise RuntimeError("of the run")
    assert "cannot be written: ConnectionError: reset" in caplog.text


def test_the_last_copy_that_fails_is_an_error(bucket, monkeypatch):
    monkeypatch.setattr(cloud, "WAITS", ())

    def fail(*arguments):
        raise ConnectionError("reset")

    with pytest.raises(cloud.CloudError, match="cannot be written"):
        with RunFolder(config(bucket, **QUIET), progress=False) as folder:
            folder.start(total_steps=3)
            folder.write(1, {"loss/total": 1.0})
            monkeypatch.setattr(cloud, "copy_file", fail)


def test_every_host_must_see_the_bucket(group, monkeypatch, tmp_path, quick):
    monkeypatch.setattr(workplace, "_SEEN_SECONDS", 0.3)
    places = [BucketPlace(epath.Path(tmp_path / name)) for name in ("one", "two")]
    (tmp_path / "one").mkdir()
    places[0].lock()
    found = as_processes(group(2), monkeypatch)(lambda number: places[number].check_shared())
    for place in places:
        place.leave(publish=False)
    for error in found:
        assert isinstance(error, PeerError) and error.exit_code == 2
        assert "is not seen by process 1" in str(error)
