"""How the processes of a run meet: JAX's own service first, then the channel beside it."""

import contextlib
import json
import logging
import os
import pathlib
import secrets
import socket
import sys
import threading
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from rlhf_jax.errors import LostError
from rlhf_jax.sharding.channel import LEADER, LOST, Channel, Failure
from rlhf_jax.sharding.cluster import DistributedConfig, Membership, find_membership
from rlhf_jax.sharding.door import Door, enter

_log = logging.getLogger(__name__)
_LETTER = 1024
"""Bytes that tell where the leader is."""
_LATER = 30
_PORT_SECONDS = 60.0
"""Time to connect with the leader, once all have started."""


def meet(config: DistributedConfig, on_failure: Callable[[Failure], None]) -> Channel | None:
    """The channel of this process, if it is one of several; None: it is alone.

    Args:
      config: who the others are.
      on_failure: see `Channel`.

    Raises:
      ValueError: the configuration says half of what is needed.
      LostError: some process did not start in time.
    """
    if not jax.distributed.is_initialized():
        membership = find_membership(config)
        if membership is None or not initialize(membership, config.initialization_timeout):
            return None
    return open_channel(on_failure) if jax.process_count() > 1 else None


def initialize(membership: Membership, timeout: int) -> bool:
    """Starts JAX's own service; False: there is no cluster after all."""
    # SIGTERM is ours: it asks for a checkpoint, and all agree on its step.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    late = threading.Timer(timeout, _give_up, (_start_error(membership, timeout),))
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            membership.coordinator,
            membership.num_processes,
            membership.process_id,
            # Its own end is a signal and a page of addresses.
            initialization_timeout=timeout + _LATER,
        )
    # of gRPC, of the cluster's own service
    except Exception as error:
        text = " ".join(str(error).split())
        if isinstance(error, ValueError) and membership.found_by == "the TPU slice":
            _log.info("one process: no slice of several hosts was found (%s)", text)
            return False
        raise LostError(
            f"the processes of the run ({membership.found_by}) did not meet: {text[:300]}"
        ) from error
    finally:
        late.cancel()
    return True


def _start_error(membership: Membership, timeout: int) -> str:
    """That some process is missing, in one line."""
    where = "process 0" if membership.coordinator is None else membership.coordinator
    others = "all"
    if membership.num_processes is not None:
        others = f"all {membership.num_processes}"
    own = "" if membership.process_id is None else f" process {membership.process_id} is here;"
    return (
        f"not {others} processes of the run ({membership.found_by}) came to {where} within "
        f"{timeout} seconds (distributed.initialization_timeout);{own} start the same command for "
        "each of the others"
    )


def _give_up(text: str) -> None:
    """Ends the process, whose main thread waits inside of JAX."""
    _log.error("error: %s", text)
    leave_at_once(LOST)


def leave_at_once(code: int) -> None:
    """Ends the process without tidying up, for which JAX would wait for the others."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def open_channel(on_failure: Callable[[Failure], None]) -> Channel:
    """Connects all processes with the leader. Where it is they learn by one collective, which works
    wherever JAX does."""
    total = jax.process_count()
    # The number is only a name here, and which process leads does not matter.
    own = jax.process_index()
    letter = b""
    door = None
    if own == LEADER:
        door = Door(secret := secrets.token_bytes(32))
        hosts = _hosts()
        letter = json.dumps([machine(), hosts, door.port, secret.hex()]).encode()
    sent = np.zeros(_LETTER, np.uint8)
    sent[: len(letter)] = np.frombuffer(letter, np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(sent)).astype(np.uint8)
    place, hosts, port, key = json.loads(received.tobytes().rstrip(b"\0"))
    if door is not None:
        connections = door.admit(total, timeout=_PORT_SECONDS)
    else:
        likely = ["127.0.0.1"] if place == machine() else hosts
        addresses = [(host, port) for host in likely]
        held = enter(own, addresses, bytes.fromhex(key), timeout=_PORT_SECONDS)
        connections = {LEADER: held}
    return Channel(own, total, connections, on_failure=on_failure)


def _hosts() -> list[str]:
    """Names and addresses by which this machine may be reached, the likeliest first."""
    found = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: this only asks by which address packets would leave.
        probe.connect(("10.255.255.255", 1))
        found.append(probe.getsockname()[0])
    found.append(socket.gethostname())
    with contextlib.suppress(OSError):
        found.append(socket.gethostbyname(socket.gethostname()))
    return list(dict.fromkeys(found))


def machine() -> str:
    """What processes of one machine have in common."""
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id")
    name = boot.read_text().strip() if boot.exists() else ""
    return f"{socket.gethostname()} {name}"
