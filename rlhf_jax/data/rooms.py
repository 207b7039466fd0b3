"""Shapes of packed batches: how much a model reads at a time where sequences share rows.

Chosen on the host from lengths, and few, because every shape is a program. The packing itself is
part of the program (`training.packing`).
"""

from typing import NamedTuple

import numpy as np

from rlhf_jax.data.batching import choose_buckets
from rlhf_jax.data.token_rows import TokenizedSet
from rlhf_jax.types import Room

_PARTS = 8
"""Parts that a full batch is divided into where nothing else says how many: half a part is wasted
on the average."""
_LEAST = 1024
"""Tokens of a part on each device, below which products are too small to be fast."""
_ROW = 1024
"""Tokens of a row where sequences are short: room enough for several. Where they are long, a row
holds two: the attention of a wider one costs more than the padding that it saves."""
_LANES = 128
"""Where whole rows are computed, the width of larger ones is a multiple of this, as the registers
of accelerators are."""
_SINGLE = 8
"""Longest sequences in the one row of a whole batch; more tokens than these lie in parts."""
_SPARE = 1.25
"""How much more a row may train on than its share of the longest sequence."""
_SHAPES = 3
_MULTIPLE = 32
_SAVED = 0.1
"""Share of the places that packing has to save to be worth its reordering."""


class Packing(NamedTuple):
    """What a run says about packing."""

    shards: int = 1
    """Devices that the rows of a batch are divided over."""
    num_microbatches: int = 1
    """A part holds no more tokens than such a share of the padded batch."""
    max_tokens_per_row: int | None = None
    """None: chosen from the lengths."""
    share_prompt: bool = True
    """Sequences of a group read their prompt once."""
    whole_rows: bool = False
    """Attention scores every pair of a row's columns, whatever its mask says, as all but "blocked"
    do: rows are then narrow, where a part is not smaller for it."""
    always: bool = False
    """Also where it saves little."""
    in_parts: bool = False
    """Never a whole batch in one row."""


class Sequences(NamedTuple):
    """What a batch can hold at most."""

    number: int
    longest: int
    """Tokens of prompt and completion."""
    completion: int
    """Tokens of a completion."""
    group: int = 1
    """Consecutive ones with the same prompt; 1: no two need have one."""


def parted_room(batch: Sequences, packing: Packing, *, together: int = 1) -> Room:
    """Room in parts, for batches whose lengths are not known when programs are compiled.

    Args:
      batch: what can come.
      packing: of the run.
      together: sequences that must lie in one part: 2 of a pair.

    Returns:
      A room; any batch fits into as many parts as it needs.

    Raises:
      ValueError: max_tokens_per_row is less than a sequence needs.
    """
    shards = packing.shards
    given = packing.max_tokens_per_row
    if given is not None and given < batch.longest:
        raise ValueError(
            f"training.max_tokens_per_row={given} is less than the longest sequence, "
            f"{batch.longest} tokens"
        )
    group = batch.group if packing.share_prompt else 1
    # A completion brings the prompt's last token along.
    own = batch.completion + 1 if group > 1 else batch.longest
    whole = (group - 1) * own + batch.longest
    most = batch.number // group * whole
    tokens = min(most // packing.num_microbatches, max(most // _PARTS, _LEAST * shards))
    row = max(batch.longest, -(-tokens // shards))
    several = min(_ROW, max(4 * batch.longest, whole))
    long = 2 * batch.longest
    if packing.whole_rows and tokens >= long * shards:
        # As many tokens in twice as many rows.
        long = batch.longest
    width = given or min(max(long, several), row)
    if packing.whole_rows and given is None:
        width = _in_lanes(width, batch.longest)
    rows = max(1, tokens // (width * shards)) * shards
    if rows == 1 and width < together * batch.longest:
        rows = together
    return Room(rows, width, batch.longest, scored=_head(batch, width, group), group=group)


def _head(batch: Sequences, width: int, group: int) -> int | None:
    """Trained tokens of a row: the head, which is dear, skips the prompts; None where there is
    little to skip."""
    if group > 1:
        return None
    share = batch.completion / batch.longest
    most = _rounded(max(batch.completion, int(width * share * _SPARE)))
    return most if most < 0.8 * width else None


class EpochRooms:
    """Rooms of batches of examples or pairs whose lengths are all known.

    On one device a small batch lies in one row, of one of few widths that fit the batches of an
    epoch; others in parts.
    """

    def __init__(
        self, totals: np.ndarray, scored: np.ndarray, *, batch: Sequences, packing: Packing
    ) -> None:
        """
        Args:
          totals: tokens of every batch of an epoch, shared ones once.
          scored: of these, trained ones.
          batch: what can come.
          packing: of the run.
        """
        # The answers of a pair, which share a prompt, lie in one part.
        self._parted = parted_room(batch, packing, together=batch.group)
        self._single: tuple[Room, ...] = ()
        in_parts = packing.in_parts or packing.shards > 1 or packing.num_microbatches > 1
        if in_parts or packing.max_tokens_per_row:
            return
        widths = choose_buckets(totals, _SHAPES, multiple=_MULTIPLE)
        own = np.searchsorted(widths, totals)
        self._single = tuple(
            Room(
                1,
                width,
                batch.longest,
                scored=_rounded(scored[own <= number].max()),
                group=self._parted.group,
                single=True,
            )
            for number, width in enumerate(widths)
            if width <= _SINGLE * batch.longest
        )

    def of(self, total: int, scored: int) -> Room:
        """The smallest room for a batch of so many tokens."""
        for room in self._single:
            if total <= room.width and scored <= (room.scored or 0):
                return room
        return self._parted

    def largest(self, totals: np.ndarray, scored: np.ndarray) -> Room:
        """Of the rooms for some batches the one with most places."""
        rooms = {self.of(*map(int, sums)) for sums in zip(totals, scored, strict=True)}
        return max(rooms, key=lambda room: room.rows * room.width)

    def places(self, totals: np.ndarray, scored: np.ndarray) -> int:
        """Tokens that are computed in all for some batches."""
        return sum(
            _computed(self.of(int(total), int(trained)), int(total))
            for total, trained in zip(totals, scored, strict=True)
        )


def pays(packed: int, padded: int, packing: Packing) -> bool:
    """Whether packed places are enough fewer than those of padded rows."""
    return packing.always or packed <= (1 - _SAVED) * padded


def worth_parts(batch: Sequences, packing: Packing) -> bool:
    """Whether a batch of unknown lengths is large enough that parts of it may be left out."""
    return packing.always or batch.number * batch.longest >= 4 * _LEAST * packing.shards


def shared_prompts(data: TokenizedSet) -> np.ndarray:
    """Tokens that the second answer of each pair need not read again: the common ones before both
    answers but the last, which is read with each."""
    shared = np.zeros(len(data.offsets) // 2, np.int64)
    tokens = np.asarray(data.tokens)
    trained = np.asarray(data.trained)
    for pair in range(len(shared)):
        starts = data.offsets[2 * pair : 2 * pair + 2]
        ends = data.offsets[2 * pair + 1 : 2 * pair + 3]
        length = int((ends - starts).min())
        left, right = (slice(int(start), int(start) + length) for start in starts)
        same = (tokens[left] == tokens[right]) & ~trained[left] & ~trained[right]
        common = length if same.all() else int(same.argmin())
        shared[pair] = max(common - 1, 0)
    return shared


def _computed(room: Room, total: int) -> int:
    part = room.rows * room.width
    return part if room.single else -(-total // part) * part


def _in_lanes(width: int, least: int) -> int:
    """A multiple of lanes, downwards where that still holds `least`; small widths as they are."""
    if width < _ROW:
        return width
    down = width // _LANES * _LANES
    return down if down >= least else -(-width // _LANES) * _LANES


def _rounded(count: int) -> int:
    return -(-int(count) // _MULTIPLE) * _MULTIPLE
