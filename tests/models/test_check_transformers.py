"""Saved folders of every family in transformers: equal logits and rewards. Needs torch."""

import pathlib

import pytest

from rlhf_jax.bench import check_transformers
from tests.models.tiny import FAMILY_NAMES


def test_every_family_is_compared():
    assert set(check_transformers.FAMILY_CONFIGS) == set(FAMILY_NAMES)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_saved_folders_load_in_transformers(tmp_path: pathlib.Path):
    pytest.importorskip("torch", reason="torch is not installed; it comes with the bench extra")
    for folder in check_transformers.save_families(tmp_path):
        result = check_transformers.compare_folder(folder)
        assert result.difference < 1e-4 and not result.unexpected, folder.name
