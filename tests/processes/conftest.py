"""Runs of several processes, each a program of its own with virtual devices."""

import os
import pathlib
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import load_file

from rlhf_jax.cli.launch import environment_of, free_port
from rlhf_jax.config import dump_config
from rlhf_jax.io import read_metrics
from rlhf_jax.runs.compilation import cache_folder
from tests.conftest import REPO
from tests.loops.conftest import mixed_task, online_config, tiny_config

__all__ = ["mixed_task", "online_config", "tiny_config"]
PATIENT = 300.0
CALM = {"learning_rate": 3e-4}
"""Adam takes a step of this size also where a gradient is nothing but rounding."""


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    text: str
    seconds: float
    """After the start."""


class Running(NamedTuple):
    """Processes of a run."""

    processes: list[subprocess.Popen]
    logs: list[pathlib.Path]
    began: float

    def wait(self, timeout: float = PATIENT) -> list[Ended]:
        """Waits for all; whoever is left then is killed."""
        ends = [None] * len(self.processes)
        until = time.monotonic() + timeout
        while None in ends and time.monotonic() < until:
            for number, process in enumerate(self.processes):
                if ends[number] is None and process.poll() is not None:
                    ends[number] = time.monotonic() - self.began
            time.sleep(0.05)
        for process in self.processes:
            process.kill()
        found = zip(self.processes, self.logs, ends, strict=True)
        return [
            Ended(process.wait(), log.read_text(), seconds or timeout)
            for process, log, seconds in found
        ]


@pytest.fixture
def start(tmp_path):
    """(config, number of processes, devices of each, fault of process 1) -> `Running`."""
    started = []

    def begin(config, count, devices=2, *, fault="none", only=None, total=None) -> Running:
        path = tmp_path / "config.yaml"
        dump_config(config, path)
        port = free_port()
        root = cache_folder("auto")
        assert root is not None
        cache = str(root / "tests" / "processes")
        own = os.environ | {"PYTHONPATH": str(REPO), "JAX_COMPILATION_CACHE_DIR": cache}
        running = Running([], [], time.monotonic())
        for number in range(count) if only is None else only:
            log = tmp_path / f"{len(started)}-{number}.log"
            environment = environment_of(number, total or count, port, devices, own)
            with log.open("w") as file:
                process = subprocess.Popen(
                    [sys.executable, "-m", "tests.processes.child", fault, str(path)],
                    env=environment,
                    cwd=REPO,
                    stdout=file,
                    stderr=file,
                )
            running.processes.append(process)
            running.logs.append(log)
        started.append(running)
        return running

    yield begin
    for running in started:
        for process in running.processes:
            process.kill()
            process.wait()


def weights_of(config) -> dict[str, np.ndarray]:
    """Tensors of a run's export."""
    return load_file(pathlib.Path(config.run_dir) / "export" / "model.safetensors")


def rows_of(config) -> list[dict]:
    """Metrics of a run that do not tell the time."""
    return [
        {
            name: value
            for name, value in row.items()
            if not name.startswith("time/") and "per_second" not in name
        }
        for row in read_metrics(config.run_dir)
    ]


def assert_same_run(one, other, *, tolerance=1e-6):
    """Weights and metrics of two runs agree."""
    ours = weights_of(one)
    theirs = weights_of(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        np.testing.assert_allclose(tensor, theirs[name], atol=tolerance, rtol=0, err_msg=name)
    ours = rows_of(one)
    theirs = rows_of(other)
    assert [row.keys() for row in ours] == [row.keys() for row in theirs]
    for mine, its in zip(ours, theirs, strict=True):
        for name, value in mine.items():
            if isinstance(value, float):
                np.testing.assert_allclose(value, its[name], rtol=1e-4, atol=1e-5, err_msg=name)
            else:
                assert value == its[name], name
