"""Whether this process is one of several, and how they find each other."""

import importlib.util
import os
import pathlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from rlhf_jax.checked import checked

VARIABLES = {
    "coordinator": "RLHF_JAX_COORDINATOR",
    "num_processes": "RLHF_JAX_NUM_PROCESSES",
    "process_id": "RLHF_JAX_PROCESS_ID",
}
"""Environment variables of the keys that differ from host to host."""
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
TPU_DEVICES = ("/dev/accel0", "/dev/vfio/0")


@checked
@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """A run of several processes, started by the same command on every host. On a TPU slice, under
    SLURM, Open MPI and in an indexed job of Kubernetes nothing need be given."""

    coordinator: str | None = None
    """HOST:PORT of process 0, any free port; null: RLHF_JAX_COORDINATOR, else detected."""
    num_processes: int | None = None
    """Processes of the run; null: RLHF_JAX_NUM_PROCESSES, else detected. 1: this one alone,
    whatever the environment looks like."""
    process_id: int | None = None
    """Number of this process, from 0; null: RLHF_JAX_PROCESS_ID, else detected."""
    initialization_timeout: int = 300
    """Seconds that processes wait for each other to start."""
    exchange_timeout: int = 1800
    """Seconds that processes wait for one that does not come to where all meet, such as one that
    grades for longer than the others; then it is named, and all end."""

    def __post_init__(self) -> None:
        for name in ("num_processes", "initialization_timeout", "exchange_timeout"):
            value = self.__dict__[name]
            if value is not None and value < 1:
                raise ValueError(f"distributed.{name}={value} must be at least 1")
        if self.process_id is not None and self.process_id < 0:
            raise ValueError(f"distributed.process_id={self.process_id} must not be negative")
        if self.coordinator is not None and not re.fullmatch(r"\S+:\d+", self.coordinator):
            raise ValueError(
                f"distributed.coordinator={self.coordinator!r} is not HOST:PORT, such as "
                "10.0.0.1:8476"
            )


class Membership(NamedTuple):
    """Which process of which run this is; None: JAX finds it out."""

    coordinator: str | None
    num_processes: int | None
    process_id: int | None
    found_by: str
    """What said so, for messages."""


def find_membership(
    config: DistributedConfig, environment: Mapping[str, str] = os.environ
) -> Membership | None:
    """The place of this process among several; None: it is alone.

    Args:
      config: its keys come first.
      environment: then its variables `RLHF_JAX_*`, then those of a cluster that JAX knows.

    Raises:
      ValueError: some of coordinator, num_processes and process_id are given and others lack.
    """
    coordinator = config.coordinator or environment.get(VARIABLES["coordinator"])
    count = _number(config, environment, "num_processes")
    place = _number(config, environment, "process_id")
    if count == 1:
        return None
    cluster = find_cluster(environment)
    given = {"coordinator": coordinator, "num_processes": count, "process_id": place}
    lacking = [name for name, value in given.items() if value is None]
    if len(lacking) < len(given):
        if lacking and cluster is None:
            raise ValueError(
                f"distributed.{lacking[0]} is not given (nor {VARIABLES[lacking[0]]}), and no "
                "cluster is recognised that says it: give all of coordinator, num_processes and "
                "process_id"
            )
        if place is not None and count is not None and place >= count:
            raise ValueError(
                f"distributed.process_id={place} must be below num_processes={count}: they count "
                "from 0"
            )
        return Membership(coordinator, count, place, "the configuration")
    return None if cluster is None else Membership(None, None, None, cluster)


def find_cluster(environment: Mapping[str, str]) -> str | None:
    """The cluster that this process runs in as one of several, of those whose environment JAX can
    read; None: none is recognised."""
    if (starter := _starter(environment)) is not None:
        return starter
    if "OMPI_MCA_orte_hnp_uri" in environment:
        return None
    if _has_tpu(environment):
        hosts = environment.get("TPU_WORKER_HOSTNAMES")
        # Without the variable the machine's metadata know, which JAX asks for.
        return None if hosts is not None and "," not in hosts else "the TPU slice"
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        if importlib.util.find_spec("kubernetes") is None:
            raise ValueError(
                "this is a process of an indexed job of Kubernetes, and JAX needs the package "
                "kubernetes to find the others: pip install kubernetes, or give distributed.* "
                "(num_processes=1: this process alone)"
            )
        return "Kubernetes"
    return None


def check_alone(command: str, environment: Mapping[str, str] = os.environ) -> None:
    """Refuses to run a command of one process in several, where each would do the same, and write
    to the same files.

    Args:
      command: its name.
      environment: of this process.

    Raises:
      ValueError: it was started as one of several.
    """
    given = environment.get(VARIABLES["num_processes"])
    starter = _starter(environment)
    if given is not None:
        starter = None if given.strip() == "1" else VARIABLES["num_processes"]
    if starter is not None:
        raise ValueError(
            f"{command} runs in one process, and this is one of several ({starter}): start it "
            f"once, or set {VARIABLES['num_processes']}=1"
        )


def _starter(environment: Mapping[str, str]) -> str | None:
    """What has started this process as one of several; None: nothing that says so at once."""
    if all(name in environment for name in SLURM) and int(environment["SLURM_NTASKS"]) > 1:
        return "SLURM"
    if "OMPI_MCA_orte_hnp_uri" in environment:
        return "Open MPI" if int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1 else None
    return None


def _number(config: DistributedConfig, environment: Mapping[str, str], name: str) -> int | None:
    own: int | None = config.__dict__[name]
    text = environment.get(VARIABLES[name])
    if own is not None or text is None:
        return own
    if not text.strip().isdigit():
        raise ValueError(f"{VARIABLES[name]}={text!r} is no number")
    return int(text)


def _has_tpu(environment: Mapping[str, str]) -> bool:
    """Whether this machine has TPUs, and JAX may use them. Asked without touching them."""
    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms and "tpu" not in platforms.split(","):
        return False
    has_driver = importlib.util.find_spec("libtpu") is not None
    return has_driver and any(pathlib.Path(device).exists() for device in TPU_DEVICES)
