"""Memory of a run in its log: what is expected before it is allocated, and what was measured."""

import functools
import logging
import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from rlhf_jax.config import Config
from rlhf_jax.data import Loader
from rlhf_jax.data.kinds import ROWS
from rlhf_jax.io.disk import describe_bytes
from rlhf_jax.loops.offline import Step
from rlhf_jax.models.remat import device_memory
from rlhf_jax.programs import batch_shape, last_batch, named
from rlhf_jax.rollout import GeneratorSampler
from rlhf_jax.runs.footprint import Footprint, Work, footprint
from rlhf_jax.runs.online_parts import OnlineParts
from rlhf_jax.runs.resident import peak_resident_bytes
from rlhf_jax.runs.rollout_layout import cached_tokens
from rlhf_jax.runs.session import Session
from rlhf_jax.runs.trees import Given
from rlhf_jax.training import TrainState
from rlhf_jax.types import Metrics, Trees

_log = logging.getLogger(__name__)
_details = logging.getLogger(f"{__name__}.details")
"""For log.txt: a screen has other things to show first."""


class MemoryAccount:
    """What a run is expected to hold, corrected once its update is compiled, and what it held.

    On CPUs arrays lie in the memory of the process, whose peak is compared with the sum over its
    devices; elsewhere the fullest device is compared with what one is expected to hold.
    """

    def __init__(self, expected: Footprint, mesh: Mesh, *, before: int) -> None:
        """Writes the table into log.txt, and its sum on the screen.

        Args:
          expected: of the run.
          mesh: of the run.
          before: bytes that the process held when nothing was loaded.
        """
        self._expected = expected
        self._local = mesh.local_devices
        self._room = device_memory(mesh)
        self._temporaries = 0
        self._before = before
        for line in table(expected, mesh.size, self._room):
            _details.info("%s", line)
        peak = expected.peak()
        has = "" if math.isinf(self._room) else f", which has {describe_bytes(round(self._room))}"
        _log.info("memory: %s expected on each device%s", describe_bytes(peak), has)
        self._warn()

    def watched(self, step: Step) -> Step:
        """A jitted update under its name, which tells what it needs before its first call.

        Args:
          step: jitted.
        """
        seen: set[Any] = set()
        jitted: Any = step

        @functools.wraps(step)
        def run(state: TrainState, frozen: Trees, batch: Any) -> tuple[TrainState, Metrics]:
            shape = batch_shape(batch)
            kind = (shape, batch.room)
            if kind not in seen:
                seen.add(kind)
                # The call finds what was compiled ahead of it: nothing is compiled twice.
                self._compiled(shape, jitted.lower(state, frozen, batch).compile())
            return step(state, frozen, batch)

        run.lower = jitted.lower  # type: ignore[attr-defined]
        return named("update", run, last_batch)

    def ended(self) -> None:
        """Writes what was measured beside what was expected."""
        expected = self._expected
        if self._local[0].platform == "cpu":
            arrays = expected.process_peak(
                len(self._local),
                share=1 / jax.process_count(),
                temporaries=self._temporaries,
            )
            peak = peak_resident_bytes()
            # Of a small model this is nearly all: it does not grow with the model.
            beside = peak - self._before - arrays
            rest = f", {describe_bytes(beside)} beside them (compiler, libraries, freed memory)"
            _log.info(
                "memory: the process held %s at most: %s before the run, %s expected for arrays%s",
                *map(describe_bytes, (peak, self._before, arrays)),
                rest if beside > 0 else "",
            )
            return
        held = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in self._local]
        if known := [size for size in held if size is not None]:
            _log.info(
                "memory: a device held %s at most, expected were %s",
                *map(describe_bytes, (max(known), expected.peak(self._temporaries))),
            )

    def _compiled(self, shape: str, program: Any) -> None:
        sizes = program.memory_analysis()
        if sizes is None:  # a backend that does not say
            return
        temporaries = int(sizes.temp_size_in_bytes)
        _details.info(
            "memory of the update (%s): arguments %s, temporaries %s a device; gradients and "
            "activations among them were expected to take %s",
            shape,
            *map(
                describe_bytes,
                (sizes.argument_size_in_bytes, temporaries, self._expected.of("update")),
            ),
        )
        if temporaries > self._temporaries:
            self._temporaries = temporaries
            self._warn()

    def _warn(self) -> None:
        peak = self._expected.peak(self._temporaries)
        if peak > self._room:
            _log.warning(
                "a device is expected to hold %s and has %s: raise training.num_microbatches or "
                "mesh.fsdp, or choose model.remat=full or a narrower model.dtype",
                *map(describe_bytes, (peak, self._room)),
            )


def offline_account(
    session: Session, mesh: Mesh, loader: Loader, given: Given | None
) -> MemoryAccount:
    """The account of a run on data that is there."""
    config = session.config
    expected = footprint(config, mesh, offline_work(config, loader), given)
    return MemoryAccount(expected, mesh, before=session.resident)


def online_account(session: Session, parts: OnlineParts, given: Given | None) -> MemoryAccount:
    """The account of a run that samples."""
    expected = footprint(parts.config, parts.mesh, online_work(parts), given)
    return MemoryAccount(expected, parts.mesh, before=session.resident)


def offline_work(config: Config, loader: Loader) -> Work:
    """What a run on data that is there does at a time."""
    micro = config.training.microbatches
    room = loader.largest_room
    if room is not None:
        return Work(room.rows, room.width, not room.single, data=loader.nbytes)
    rows = ROWS[loader.kind] * loader.batch_size // micro
    return Work(rows, loader.buckets[-1], micro > 1, data=loader.nbytes)


def online_work(parts: OnlineParts) -> Work:
    """What a run that samples does at a time."""
    config = parts.config
    micro = config.training.microbatches
    sampling = parts.sampling
    rows = config.training.batch_size * sampling.group_size // sampling.num_minibatches // micro
    width = parts.sampler.width
    if parts.room is not None:
        rows = parts.room.rows
        width = parts.room.width
    is_summed = micro > 1 or parts.room is not None
    cached = _cached_tokens(parts) if isinstance(parts.sampler, GeneratorSampler) else 0
    return Work(rows, width, is_summed, cached, parts.prompts.nbytes)


def _cached_tokens(parts: OnlineParts) -> int:
    """Places of the built-in sampler's caches when completions are longest."""
    width = parts.sampler.width - parts.sampler.max_scored
    group_size = parts.sampling.group_size
    return cached_tokens(parts.config, prompt_width=width, group_size=group_size)


def table(expected: Footprint, devices: int, room: float) -> Iterator[str]:
    """The lines of a footprint, with sums.

    Args:
      expected: on each device.
      devices: how many.
      room: bytes of each; infinite: it does not say.
    """
    rows = [(part.name, part.bytes) for part in expected.parts]
    rows.append(("at one time", expected.peak()))
    if devices > 1:
        rows.append((f"over {devices} devices", expected.peak() * devices))
    if not math.isinf(room):
        rows.append(("room", round(room)))
    rows.append(("host: tokenised data", expected.data))
    rows.append(("host: a checkpoint while it is written", expected.checkpoint))
    width = max(len(name) for name, _ in rows)
    yield "memory expected on each device, before the update is compiled:"
    for name, size in rows:
        yield f"  {name:{width}}  {describe_bytes(size):>8}"
