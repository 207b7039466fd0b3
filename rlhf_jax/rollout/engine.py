"""Generation for a run: compiled once per shape, on a mesh, with slots refilled meanwhile."""

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from rlhf_jax.fields import documented
from rlhf_jax.rollout.generate import CHUNK, assemble
from rlhf_jax.rollout.programs import Programs, Settings, StringEnd, Watch, make_programs
from rlhf_jax.rollout.refill import Job, pad_rows, padded_count, run_slots
from rlhf_jax.rollout.sampling import SamplingParams, check_sampling, sampling_steps
from rlhf_jax.sharding import row_shards
from rlhf_jax.types import Key, Model, Params, Rollout


@documented
class GenerationStats(NamedTuple):
    """What a generation cost."""

    tokens: int
    """Sampled tokens that count."""
    slot_steps: int
    """Tokens that could have been sampled: slots times steps, and the first token of every
    completion."""
    utilisation: float
    """``tokens / slot_steps``."""
    seconds: float
    """Wall time, compilation included."""


class Generator(Protocol):
    """What `make_generator` returns."""

    def __call__(
        self,
        params: Params,
        prompts: Int[np.ndarray, "P Tp"],
        lengths: Int[np.ndarray, " P"],
        key: Key,
        sampling: SamplingParams,
        *,
        limits: Int[np.ndarray, " R"] | None = None,
    ) -> tuple[Rollout, GenerationStats]: ...


def make_generator(
    model: Model,
    *,
    mesh: Mesh | None,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    pad_id: int,
    group_size: int,
    prompt_buckets: Sequence[int],
    slots: int | None = None,
    chunk: int = CHUNK,
    missing_ids: Sequence[int] = (),
    string_end: StringEnd | None = None,
    watch: Watch | None = None,
) -> Generator:
    """Builds the function that samples the completions of a run.

    ``generator(params, prompts[P, Tp], lengths[P], key, sampling, *, limits=None)`` takes NumPy
    prompts of any width and number, returns a `Rollout` of NumPy arrays (P * G rows; width: the
    prompts' bucket + `max_new_tokens`) and `GenerationStats`, and samples what
    `rlhf_jax.rollout.generate` samples, whatever `slots` and `chunk` are. `key` is one key, or one
    per completion [P * G].

    With `slots`, that many completions decode at a time, in programs of `chunk` tokens. Between two
    of them finished completions leave and waiting ones take their places, in order; on a mesh those
    whose prompts lie on the same shard of rows, so that no keys of prompts move. The cache of
    the completions is a ring that all slots write at one common index; it grows when some
    completion needs it. Once none waits, the slots are halved as they empty.

    A program is compiled for a bucket of prompt widths, a number of prompts (padded to 1, 2, 4 or a
    multiple of 8), and, with `slots`, a size of the ring and a number of slots; the values of
    `sampling` compile nothing unless a filter is switched on.

    Args:
      model: with `prefill` and `decode`.
      mesh: the mesh of its parameters; None outside one.
      max_new_tokens: of a completion at most, EOS included.
      eos_ids: tokens that end a completion.
      pad_id: fills tokens off the mask.
      group_size: completions per prompt.
      prompt_buckets: widths that prompts are padded to.
      slots: None: all completions of a call decode together until the last one is done.
      chunk: tokens decoded between two looks at what is finished.
      missing_ids: ids that no token of the tokenizer has: never sampled
        (`rlhf_jax.rollout.sampling.choose`).
      string_end: finds stop strings (`FastTokenizer.string_end`). The host looks for them between
        two programs of `chunk` tokens, so a completion decodes at most `chunk - 1` tokens too many,
        which are cut off: it ends with the very token that completes the string, and is not
        truncated. All completions then decode in slots, whatever `slots` is.
      watch: puts its own functions in place of the compiled ones, which call them: to measure what
        a run computes.

    Returns:
      The generator.

    Raises:
      ValueError: numbers below 1, no buckets, slots that the mesh does not divide, a model without
        a language-model head; and by the generator: prompts that are empty or wider than the last
        bucket, keys for another number of completions, or sampling parameters out of range.
    """
    for name, value in (
        ("max_new_tokens", max_new_tokens),
        ("group_size", group_size),
        ("chunk", chunk),
        ("slots", slots),
    ):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    shards = 1 if mesh is None else row_shards(mesh)
    if slots is not None and slots % shards:
        raise ValueError(f"slots={slots} must be a multiple of {shards} (mesh data x fsdp)")
    if not prompt_buckets:
        raise ValueError("prompt_buckets is empty; give the widths that prompts are padded to")
    settings = Settings(
        mesh=mesh,
        max_new_tokens=max_new_tokens,
        eos_ids=tuple(int(token) for token in eos_ids),
        pad_id=pad_id,
        group_size=group_size,
        buckets=tuple(sorted(prompt_buckets)),
        slots=slots,
        chunk=chunk,
        shards=shards,
        missing_ids=tuple(token for token in missing_ids if token < model.config.vocab_size),
        string_end=string_end,
    )
    programs = make_programs(model, settings)
    if watch is not None:
        programs = watch(programs)

    def generator(
        params: Params,
        prompts: Int[np.ndarray, "P Tp"],
        lengths: Int[np.ndarray, " P"],
        key: Key,
        sampling: SamplingParams,
        *,
        limits: Int[np.ndarray, " R"] | None = None,
    ) -> tuple[Rollout, GenerationStats]:
        began = time.perf_counter()
        key = _own_keys(key, len(prompts) * group_size, settings)
        check_sampling(sampling)
        steps = sampling_steps(sampling)
        own_limits = _own_limits(limits, len(prompts), settings)
        rows = len(own_limits)
        job = Job(*_fit(prompts, lengths, settings), own_limits, key, sampling, steps)
        if string_end is None and (slots is None or slots >= rows):
            out, slot_steps = _run_whole(programs, params, job, settings)
        else:
            done, slot_steps = run_slots(programs, params, job, _with_slots(job, settings))
            repeated = (
                np.repeat(job.prompts, group_size, axis=0),
                np.repeat(job.lengths, group_size),
            )
            out = assemble(
                *repeated,
                *done[:3],
                pad_id=pad_id,
                eos_ids=settings.eos_ids,
                stopped=done.stopped,
                xp=np,
            )
        tokens = int(np.sum(out.completion_mask))
        return out, GenerationStats(
            tokens, slot_steps, tokens / max(slot_steps, 1), time.perf_counter() - began
        )

    return generator


def _fit(
    prompts: np.ndarray, lengths: np.ndarray, settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """Checks prompts and gives them the width of their bucket."""
    prompts = np.asarray(prompts, np.int32)
    lengths = np.asarray(lengths, np.int32)
    if len(prompts) == 0 or lengths.min() < 1:
        raise ValueError(
            "an empty prompt, or no prompts: a completion needs at least one token before it"
        )
    longest = int(lengths.max())
    if longest > prompts.shape[1]:
        raise ValueError(
            f"a prompt of {longest} tokens in rows of {prompts.shape[1]}; lengths and prompts do "
            "not belong together"
        )
    if longest > settings.buckets[-1]:
        raise ValueError(
            f"a prompt of {longest} tokens is wider than the widest bucket {settings.buckets[-1]}; "
            "shorten it"
        )
    width = next(bucket for bucket in settings.buckets if bucket >= longest)
    return np.pad(prompts[:, :width], ((0, 0), (0, max(0, width - prompts.shape[1])))), lengths


def _own_limits(limits: np.ndarray | None, num_prompts: int, settings: Settings) -> np.ndarray:
    rows = num_prompts * settings.group_size
    own = np.full(rows, settings.max_new_tokens) if limits is None else np.asarray(limits)
    if own.shape != (rows,):
        raise ValueError(f"limits has shape {own.shape}, but there are {rows} completions")
    return np.clip(own, 0, settings.max_new_tokens).astype(np.int32)


def _own_keys(key: Key, rows: int, settings: Settings) -> Key:
    """Checks keys per completion and repeats the last up to one of few compiled numbers."""
    if key.ndim == 0:
        return key
    if key.shape != (rows,):
        raise ValueError(
            f"key has shape {key.shape}, but there are {rows} completions: give one key, or one "
            "for each"
        )
    padded = padded_count(rows // settings.group_size, settings.shards) * settings.group_size
    return key[np.minimum(np.arange(padded), rows - 1)]


def _with_slots(job: Job, settings: Settings) -> Settings:
    """As many slots as were asked for, or where that is all completions, one for each."""
    shards = settings.shards
    rows = len(job.limits)
    if settings.slots is not None and settings.slots < rows:
        return settings
    # A completion decodes where its prompt is, and a shard holds whole prompts.
    prompts = padded_count(len(job.prompts), shards) // shards
    most = min(rows, prompts * settings.group_size)
    return settings._replace(slots=padded_count(most * shards, shards))


def _run_whole(
    programs: Programs, params: Params, job: Job, settings: Settings
) -> tuple[Rollout, int]:
    """All completions in one program, and the slots times steps it took."""
    count = padded_count(len(job.prompts), settings.shards)
    rows = len(job.limits)
    prompts = pad_rows(job.prompts, count, 0)
    lengths = pad_rows(job.lengths, count, 1)
    limits = pad_rows(job.limits, count * settings.group_size, 0)
    out = programs.whole(params, prompts, lengths, limits, job.key, job.sampling, steps=job.steps)
    rollout = Rollout(*(x[:rows] for x in jax.device_get(out)))
    longest = int(rollout.completion_mask.sum(axis=1).max())
    steps = -(-max(longest - 1, 0) // settings.chunk) * settings.chunk
    return rollout, rows + count * settings.group_size * steps
