"""Test configuration: 8 virtual CPU devices, rank promotion raises, warnings are errors."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")
# The tests compile far more than they compute: the backend's optimisations would double their time
# and change no result that they look at.
os.environ["XLA_FLAGS"] = (
    f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}".strip()
)

import logging
import pathlib
import signal

import jax
import pytest
from jaxtyping import install_import_hook

# Shapes and types of ops and algorithms are checked in tests only. Must come before the first
# import of rlhf_jax. PEP 484 tower: an int passes for a float, as for every other Python type
# checker.
install_import_hook(
    ["rlhf_jax.ops", "rlhf_jax.algorithms"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

from rlhf_jax.runs.compilation import cache_folder  # noqa: E402  after the hook
from tests.sharding.threads import Group  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

REPO = pathlib.Path(__file__).resolve().parent.parent


def quick(cases, default):
    """The cases, of which only some are tried by default: each is programs to compile."""
    return [
        case if case in default else pytest.param(case, marks=pytest.mark.slow) for case in cases
    ]


@pytest.fixture(scope="session", autouse=True)
def compile_cache():
    """Programs are compiled once, for this and every later run of the tests.

    Each worker has a folder of its own: two that write one entry at a time would warn.
    """
    root = cache_folder("auto")
    assert root is not None
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    jax.config.update("jax_compilation_cache_dir", str(root / "tests" / worker))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Real data beside the repository (RLHF_JAX_SHARED says where); tests say why they skip."""
    root = pathlib.Path(os.environ.get("RLHF_JAX_SHARED", REPO.parent / "shared")) / "data"
    if not root.is_dir():
        pytest.skip(
            f"real data is not beside the repository: {root} does not exist (set RLHF_JAX_SHARED)"
        )
    return root


@pytest.fixture(autouse=True)
def fresh_log():
    """The library's log as a new process has it: a command before may have shown it on stderr."""
    logger = logging.getLogger("rlhf_jax")
    before = (logger.level, list(logger.handlers), logger.propagate)
    logger.setLevel(logging.NOTSET)
    logger.handlers.clear()
    logger.propagate = True
    yield
    logger.setLevel(before[0])
    logger.handlers[:] = before[1]
    logger.propagate = before[2]


@pytest.fixture
def hangups():
    """SIGHUP as a program meets it that was not started under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def group():
    """(number, **options) -> processes of a run, played by threads."""
    made = []

    def make(count, **options):
        made.append(Group(count, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
