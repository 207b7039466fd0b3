"""`training.num_microbatches=auto`: as few parts as the memory of a device allows."""

import dataclasses
import logging
import math

import jax
from jax.sharding import Mesh

from rlhf_jax.config import Config
from rlhf_jax.io.disk import describe_bytes
from rlhf_jax.models.remat import device_memory
from rlhf_jax.runs.footprint import footprint
from rlhf_jax.runs.plan.phases import program_peak
from rlhf_jax.runs.plan.programs import plan_programs
from rlhf_jax.sharding import make_mesh, row_shards

ROOM = 0.85
"""Share of a device's memory that an update may take with all that a run holds: the rest is for
programs themselves, buffers of communication and what the allocator cannot use."""
_MISSED = 1.5
"""An expectation that exceeds the room so many times is not compiled: it misses by less."""

_log = logging.getLogger(__name__)


def settled(config: Config, mesh: Mesh | None = None) -> Config:
    """The configuration with a number in place of "auto".

    The update is compiled on shapes, with rows as long as the configuration allows, for the fewest
    microbatches first; the first one whose memory fits is taken. Only the size of the memory is
    read, not what is free: on the same machine a run that goes on makes the same choice.

    Args:
      config: a whole run.
      mesh: that it trains on; None: the configuration's, made only where it is asked.

    Raises:
      ValueError: a model of one's own, which cannot be traced before it is given, or no number of
        microbatches fits; one line says so.
    """
    if config.training.num_microbatches != "auto":
        return config
    if config.model.given:
        raise ValueError(
            "training.num_microbatches=auto asks the model of the configuration, and "
            "model.given=true says nothing about it: give a number"
        )
    mesh = make_mesh(config.mesh) if mesh is None else mesh
    counts = microbatch_counts(config, mesh)
    room = device_memory(mesh)
    if math.isinf(room):
        _log.info("num_microbatches=auto: 1, as the device does not say how much memory it has")
        return with_microbatches(config, counts[0])
    least = math.inf
    for count in counts:
        trial = with_microbatches(config, count)
        peak = update_peak(trial, mesh, most=_MISSED * ROOM * room)
        least = min(least, peak)
        if peak <= ROOM * room:
            _log.info(
                "num_microbatches=auto: %d, with which a device holds %s of its %s at most",
                count,
                describe_bytes(round(peak)),
                describe_bytes(round(room)),
            )
            return trial
    raise ValueError(
        f"training.num_microbatches=auto: a device holds {describe_bytes(round(least))} with "
        f"{counts[-1]} microbatches too, and has {describe_bytes(round(room))}: raise mesh.fsdp or "
        "mesh.tensor, or choose model.remat=full or a narrower model.dtype"
    )


def microbatch_counts(config: Config, mesh: Mesh) -> list[int]:
    """Numbers of microbatches that divide the rows of an update over a mesh, fewest first.

    Raises:
      ValueError: the rows do not divide over the mesh even as one.
    """
    rows = config.training.batch_size
    parts = row_shards(mesh)
    if config.is_online:
        sampling = config.resolved_algorithm.sampling
        rows *= sampling.group_size
        parts *= sampling.num_minibatches
    if rows % parts:
        # Said in the words of a run with a number.
        plan_programs(with_microbatches(config, 1), mesh)
    most = rows // parts
    return [count for count in range(1, most + 1) if most % count == 0]


def expected_to_fit(config: Config, mesh: Mesh, room: float) -> Config:
    """The configuration with the fewest microbatches that should fit, in place of "auto"; the most
    there can be where none should. Nothing is compiled.

    Args:
      config: a whole run.
      mesh: that it trains on.
      room: bytes of a device.
    """
    if config.training.num_microbatches != "auto":
        return config
    trials = [with_microbatches(config, count) for count in microbatch_counts(config, mesh)]
    for trial in trials:
        planned = plan_programs(trial, mesh)
        if footprint(planned.config, mesh, planned.work).peak() <= room:
            return trial
    return trials[-1]


def with_microbatches(config: Config, count: int) -> Config:
    """The configuration with a number of microbatches."""
    training = dataclasses.replace(config.training, num_microbatches=count)
    return dataclasses.replace(config, training=training)


def update_peak(config: Config, mesh: Mesh, *, most: float = math.inf) -> float:
    """Bytes that a device holds at most during an update of full rows, by the compiler.

    Args:
      config: a whole run.
      mesh: that it trains on.
      most: above it the expectation is returned, and nothing is compiled.
    """
    planned = plan_programs(config, mesh)
    expected = footprint(planned.config, mesh, planned.work)
    if expected.peak() > most:
        return expected.peak()
    (update,) = (each for each in planned.programs if each.name == "update")
    try:
        compiled = update.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        # Compilers of accelerators refuse a program that exceeds the memory.
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return math.inf
    return program_peak(update, compiled.memory_analysis(), mesh, expected)
