"""All processes of a run must see its folder."""

from rlhf_jax.errors import PeerError
from rlhf_jax.io import shared_folder
from rlhf_jax.io.shared_folder import check_shared
from tests.sharding.threads import as_processes


def folders(tmp_path, *names):
    for name in names:
        (tmp_path / name).mkdir(exist_ok=True)
    return [tmp_path / name for name in names]


def test_one_folder_is_shared(group, monkeypatch, tmp_path):
    seen = folders(tmp_path, "run", "run")
    found = as_processes(group(2), monkeypatch)(lambda number: check_shared(seen[number], "x"))
    assert found == [None, None]


def test_a_folder_of_the_same_name_on_another_host_is_refused(group, monkeypatch, tmp_path):
    monkeypatch.setattr(shared_folder, "_SEEN_SECONDS", 0.3)
    seen = folders(tmp_path, "here", "there")
    (seen[1] / "x").write_text("of an earlier start")
    found = as_processes(group(2), monkeypatch)(lambda number: check_shared(seen[number], "x"))
    for error in found:
        assert isinstance(error, PeerError) and error.exit_code == 2
        assert "is not seen by process 1: give a folder that all hosts share" in str(error)


def test_alone_nothing_is_written(tmp_path):
    check_shared(tmp_path, "x")
    assert not list(tmp_path.iterdir())
