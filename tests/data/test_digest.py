"""Kept arrays that are damaged are made anew: tokens of a split, any array with a digest."""

import errno
import json
import logging
import pathlib

import numpy as np
import pytest

from rlhf_jax.data import DataConfig, make_loader, tokenize
from rlhf_jax.data.digest import StaleError, keep_array, kept_array
from tests.data.test_loader import BYTES
from tests.io.damage import damaged_files


@pytest.fixture
def pairs(tmp_path) -> DataConfig:
    rows = [{"prompt": f"{i}=", "chosen": str(i), "rejected": str(i + 1)} for i in range(20)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(path=str(tmp_path / "pairs.jsonl"), max_length=64)


def tokens(config: DataConfig, cache: pathlib.Path) -> list[np.ndarray]:
    loader = make_loader(config, BYTES, kind="pairs", batch_size=20, seed=0, cache_dir=cache)
    return [np.asarray(array) for array in loader.batch(0)]


def test_no_damage_to_kept_tokens_is_used_or_ends_a_run(pairs, tmp_path, caplog):
    cache = tmp_path / "cache"
    whole = tokens(pairs, cache)
    [folder] = cache.iterdir()
    count = 0
    for damage, path in damaged_files(folder):
        caplog.clear()
        for a, b in zip(whole, tokens(pairs, cache), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"{damage} {path.name}")
        lines = [record for record in caplog.records if "are damaged" in record.getMessage()]
        assert (
            len(lines) == 1
            and "made anew" in lines[0].getMessage()
            and "\n" not in lines[0].getMessage()
        )
        count += 1
    assert count > 40


def test_tokens_of_an_earlier_version_are_made_anew(pairs, tmp_path, caplog):
    whole = tokens(pairs, tmp_path / "cache")
    [meta] = (tmp_path / "cache").glob("*/meta.json")
    meta.write_text(json.dumps({"skipped": {}, "shortened": 0}))
    for a, b in zip(whole, tokens(pairs, tmp_path / "cache"), strict=True):
        np.testing.assert_array_equal(a, b)
    assert "made anew" in caplog.text and "digest" in meta.read_text()


def test_a_disk_without_room_for_tokens_costs_time_alone(pairs, tmp_path, monkeypatch, caplog):
    def full(path, array):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tokenize.np, "save", full)
        first = tokens(pairs, tmp_path / "cache")
    assert "are not kept in" in caplog.text and list((tmp_path / "cache").iterdir()) == []
    for a, b in zip(first, tokens(pairs, tmp_path / "cache"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_array_comes_back_as_it_was_or_not_at_all(tmp_path):
    path, array = (
        tmp_path / "kept" / "x.npy",
        np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32),
    )
    assert kept_array(path) is None
    keep_array(path, array)
    assert sorted(file.name for file in path.parent.iterdir()) == ["x.npy", "x.npy.sha256"]
    np.testing.assert_array_equal(kept_array(path), array)
    refused = 0
    for _, damaged in damaged_files(path.parent):
        try:
            found = kept_array(path)
        except StaleError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert damaged == path if found is None else np.array_equal(found, array)
    assert refused >= 15


def test_the_log_says_nothing_of_whole_tokens(pairs, tmp_path, caplog):
    tokens(pairs, tmp_path / "cache")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        tokens(pairs, tmp_path / "cache")
    assert "read from" in caplog.text and "damaged" not in caplog.text
