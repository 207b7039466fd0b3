"""Addresses of buckets, patience with a network, and copies in the cache."""

import json

import pytest
from etils import epath

from rlhf_jax import cloud
from rlhf_jax.cloud import AddressError, CloudError


@pytest.fixture
def waits(monkeypatch):
    """What was waited between tries; nothing is."""
    found = []
    monkeypatch.setattr(cloud.time, "sleep", found.append)
    return found


@pytest.mark.parametrize("path", ["runs/x", "/runs/x", "synthetic:arithmetic?size=3", "a:b"])
def test_what_is_no_address_is_a_path(path):
    assert not cloud.is_address(path)
    assert str(cloud.place(path)) == path
    assert not cloud.is_bucket(cloud.place(path))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("az://b/run", r"run_dir=az://b/run is neither a folder nor a bucket that can be used"),
        ("hdfs://b/run", r"mount it, and give the folder where it is mounted"),
        ("gs://bucket", r"gs://bucket names no folder in a bucket: gs://BUCKET/PATH"),
        ("s3://bucket/", r"s3://bucket/ names no folder in a bucket"),
        ("gs:///run", r"gs:///run names no folder in a bucket"),
    ],
)
def test_an_address_that_cannot_be_used(path, message):
    with pytest.raises(AddressError, match=message) as error:
        cloud.place(path, "run_dir")
    assert error.value.exit_code == 2 and "\n" not in str(error.value)


@pytest.mark.parametrize(("path", "extra"), [("gs://b/run", "gcs"), ("s3://b/run", "s3")])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, path, extra):
    monkeypatch.setattr(cloud.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AddressError, match=rf"pip install 'rlhf_jax\[{extra}\]'"):
        cloud.place(path)


def test_an_address_is_a_path(monkeypatch):
    monkeypatch.setattr(cloud.importlib.util, "find_spec", lambda name: True)
    found = cloud.place("gs://bucket/runs/x/")
    assert cloud.is_bucket(found) and str(found / "a") == "gs://bucket/runs/x/a"
    assert cloud.place(found) == found and found.name == "x"


def test_what_fails_is_tried_again(waits):
    left = [TimeoutError("busy"), ConnectionError("reset")]

    def work():
        if left:
            raise left.pop()
        return 7

    assert cloud.patiently("gs://b/x cannot be read", work) == 7
    assert waits == [1.0, 2.0]


def test_what_goes_on_failing_is_one_line(waits):
    def work():
        raise TimeoutError("no answer\nfrom the host")

    with pytest.raises(CloudError) as error:
        cloud.patiently("gs://b/x cannot be written", work)
    said = "gs://b/x cannot be written: TimeoutError: no answer from the host (6 tries)"
    assert str(error.value) == said
    assert waits == list(cloud.WAITS) and error.value.exit_code == 1


class Refused(Exception):
    code = 403


@pytest.mark.parametrize("error", [PermissionError("no"), FileNotFoundError("no"), Refused("no")])
def test_what_no_second_try_mends_is_said_at_once(waits, error):
    def work():
        raise error

    with pytest.raises(CloudError, match="cannot be read: .*: no$"):
        cloud.patiently("gs://b/x cannot be read", work)
    assert waits == []


def test_copies_in_the_cache_are_made_once(tmp_path, monkeypatch):
    bucket = tmp_path / "bucket"
    (bucket / "sub").mkdir(parents=True)
    (bucket / "a.txt").write_text("one")
    (bucket / "sub" / "b.txt").write_text("two")
    copied = []
    copy = cloud.copy_file
    monkeypatch.setattr(
        cloud,
        "copy_file",
        lambda source, target: copied.append(source.name) or copy(source, target),
    )
    target = tmp_path / "cache"
    cloud.download(epath.Path(bucket), target)
    assert sorted(copied) == ["a.txt", "b.txt"]
    assert (target / "sub" / "b.txt").read_text() == "two"
    (bucket / "a.txt").write_text("changed")
    (bucket / "sub" / "b.txt").unlink()
    copied.clear()
    cloud.download(epath.Path(bucket), target)
    assert copied == ["a.txt"] and (target / "a.txt").read_text() == "changed"
    assert not (target / "sub" / "b.txt").exists()
    copied.clear()
    cloud.download(epath.Path(bucket), target)
    assert copied == []
    assert cloud.files_below(target) == ["a.txt"]
    assert set(json.loads((tmp_path / ".cache.stamps").read_text())) == {"a.txt"}


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "bucket").mkdir()
    with pytest.raises(CloudError, match="bucket holds no file"):
        cloud.download(epath.Path(tmp_path / "bucket"), tmp_path / "cache")


def test_a_local_path_is_fetched_as_it_is(tmp_path):
    assert cloud.fetched(str(tmp_path)) == tmp_path
    assert cloud.fetched(tmp_path) == tmp_path
