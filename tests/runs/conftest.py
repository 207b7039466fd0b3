"""The tiny runs of the loop tests, for whole runs."""

from tests.io.conftest import hangups
from tests.loops.conftest import mixed_task, online_config, tiny_config

__all__ = ["hangups", "mixed_task", "online_config", "tiny_config"]
