"""For programs of machines that are not there."""

import jax
import pytest


@pytest.fixture(scope="module")
def no_cache():
    """A program for a device that is not there is kept, and cannot be read again without one."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", folder)
