"""Where a run may write, and what its hosts must have in common."""

import pytest

from rlhf_jax.config import make_compare
from rlhf_jax.io import RunFolderError
from rlhf_jax.runs import compare, export, space
from rlhf_jax.runs.parts import check_same
from rlhf_jax.runs.quickstart import quickstart_tree
from rlhf_jax.runs.source import parse_start_from
from tests.sharding.threads import as_processes


def test_hosts_with_other_files_are_refused(group, monkeypatch):
    found = as_processes(group(2), monkeypatch)(lambda n: check_same("tokenizer", "ab"[n]))
    for error in found:
        assert isinstance(error, ValueError)
        assert "the tokenizer of process 1 is not that of process 0" in str(error)
    assert as_processes(group(2), monkeypatch)(lambda n: check_same("tokenizer", "a")) == [
        None,
        None,
    ]


def test_an_export_to_a_bucket_needs_room_here_first(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(space, "free_bytes", lambda folder: 1_000)
    space._check_temporary(5_000, 900, keep=2)
    assert (
        "a checkpoint is 5.0 kB, 2 are kept in the bucket; the export is 900 bytes" in caplog.text
    )
    with pytest.raises(RunFolderError, match="set TMPDIR to a folder with room"):
        space._check_temporary(5_000, 1_001, keep=2)


def test_comparisons_and_exports_are_written_to_a_disk():
    config = make_compare(quickstart_tree() | {"run_dir": "gs://bucket/compare"})
    with pytest.raises(ValueError, match="gs://bucket/compare is in a bucket: comparisons are"):
        compare(config)
    with pytest.raises(ValueError, match="s3://bucket/x is in a bucket: export into a folder"):
        export("runs/x", "s3://bucket/x")


@pytest.mark.parametrize("text", ["runs/x@5", "runs/x/checkpoints/5"])
def test_a_run_and_its_step(text):
    run, step = parse_start_from(text)
    assert (str(run), step) == ("runs/x", 5)
