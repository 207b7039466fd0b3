"""Test configuration: 8 virtual CPU devices, rank promotion raises, warnings are errors (pyproject)."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import pathlib

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

REPO = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Real data beside the repository (RLHF_JAX_SHARED overrides where); tests that need it say why they skip."""
    root = pathlib.Path(os.environ.get("RLHF_JAX_SHARED", REPO.parent / "shared")) / "data"
    if not root.is_dir():
        pytest.skip(f"real data is not beside the repository: {root} does not exist (set RLHF_JAX_SHARED)")
    return root
