"""Programs on this machine that stand for GCS and S3: `gcp-storage-emulator` and `moto`.

They come with the packages that `.ci/run` installs for the slow tests; without them those skip.
"""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import NamedTuple

import pytest

from tests.conftest import REPO

BUCKET = "pod"
NEEDED = {"gs": ("gcsfs", "gcp_storage_emulator"), "s3": ("s3fs", "moto", "boto3")}
_S3 = """
import sys, time, boto3
from moto.server import ThreadedMotoServer
ThreadedMotoServer("127.0.0.1", int(sys.argv[1])).start()
address = "http://127.0.0.1:" + sys.argv[1]
boto3.client("s3", endpoint_url=address).create_bucket(Bucket="{bucket}")
time.sleep(10**6)
"""


class Emulator(NamedTuple):
    """A bucket."""

    scheme: str
    variables: dict[str, str]
    """By which every client library finds the emulator."""

    def address(self, path: str) -> str:
        """Of a path in the bucket."""
        return f"{self.scheme}://{BUCKET}/{path}"


def _variables(scheme: str, port: int) -> dict[str, str]:
    here = f"http://127.0.0.1:{port}"
    if scheme == "gs":
        return {
            "STORAGE_EMULATOR_HOST": here,
            "TENSORSTORE_GCS_HTTP_URL": here,
            # gcsfs would ask Google what kind of bucket it is
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }
    return {
        "AWS_ENDPOINT_URL": here,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _wait(process: subprocess.Popen, port: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        assert process.poll() is None, "the emulator has ended"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError("the emulator does not answer")


def start(scheme: str):
    """Yields an `Emulator`, whose variables this process has meanwhile."""
    for package in NEEDED[scheme]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {' '.join(NEEDED[scheme])}, as .ci/run installs them")
    port = _free_port()
    variables = _variables(scheme, port)
    program = ["-c", _S3.format(bucket=BUCKET)]
    if scheme == "gs":
        program = ["-m", "tests.gcs_emulator"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        process = subprocess.Popen(
            [sys.executable, *program, str(port), BUCKET],
            cwd=REPO,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | variables,
        )
        try:
            _wait(process, port)
            if scheme == "s3":
                time.sleep(2)  # the bucket is made after the server has begun
            yield Emulator(scheme, variables)
        finally:
            process.kill()
            process.wait()
