"""Which rows form a batch, how wide it is: order, buckets, packing. Pure, of lengths and seeds."""

import bisect
from collections.abc import Sequence

import numpy as np

_WORTH = 0.02  # share of the padded places that one more width has to save


def epoch_order(num_rows: int, *, seed: int, epoch: int) -> np.ndarray:
    """A permutation of `num_rows` rows that depends on (seed, epoch) only.

    Sorting raw Philox words, not `Generator.permutation`: numpy guarantees the former's stream
    across versions.
    """
    words = _words(num_rows, seed, epoch, stream=0)
    return np.argsort(words, kind="stable")


def _words(count: int, seed: int, epoch: int, *, stream: int) -> np.ndarray:
    counter = [0, 0, epoch, stream]
    return np.random.Philox(key=[seed % 2**64, 0], counter=counter).random_raw(count)


def epoch_batches(
    lengths: np.ndarray,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    window: int = 1,
) -> np.ndarray:
    """The rows of every batch of an epoch: int64 [batches, batch_size], -1 where rows run out.

    Rows are shuffled, sorted by length within windows of `window` batches (rows of like length pad
    each other little), and the batches are shuffled again. Each row occurs exactly once.
    `shuffle=False`: storage order, unsorted.
    """
    num_rows = len(lengths)
    num_batches = -(-num_rows // batch_size)
    padded = np.full(num_batches * batch_size, -1, np.int64)
    if not shuffle:
        padded[:num_rows] = np.arange(num_rows)
        return padded.reshape(num_batches, batch_size)
    order = epoch_order(num_rows, seed=seed, epoch=epoch)
    # Sorted within windows, like lengths meet; across windows the order stays random.
    span = batch_size * window
    for start in range(0, num_rows if window > 1 else 0, span):
        part = order[start : start + span]
        order[start : start + span] = part[np.argsort(-lengths[part], kind="stable")]
    padded[:num_rows] = order
    batches = padded.reshape(num_batches, batch_size)
    # Sorting left long batches first in each window: the batches are shuffled once more.
    return batches[np.argsort(_words(num_batches, seed, epoch, stream=1), kind="stable")]


def choose_buckets(
    lengths: Sequence[int] | np.ndarray,
    num_buckets: int,
    *,
    multiple: int = 1,
    limit: int | None = None,
) -> tuple[int, ...]:
    """At most `num_buckets` widths, multiples of `multiple`, that pad the lengths least.

    Every width is a shape to compile, so one more is taken only if it saves 2% of the places.

    Args:
        lengths: what has to fit; the largest one always does.
        num_buckets: how many widths at most.
        multiple: widths are multiples of this, except that none exceeds `limit`.
        limit: largest width allowed; at least the largest length.
    """
    rounded = -(-np.maximum(np.asarray(lengths), 1) // multiple) * multiple
    if limit is not None:
        rounded = np.minimum(rounded, limit)
    sizes, counts = np.unique(rounded, return_counts=True)
    if len(sizes) > 256:  # keep the programme small: at most 256 candidate widths, evenly spaced
        keep = np.unique(np.linspace(0, len(sizes) - 1, 256).astype(int))
        groups = np.searchsorted(keep, np.arange(len(sizes)))
        counts = np.bincount(groups, weights=counts, minlength=len(keep)).astype(np.int64)
        sizes = sizes[keep]
    # Dynamic programme over candidate widths: cost[i] is the padded size of all rows up to i.
    total = np.concatenate([[0], np.cumsum(counts)])
    cost = sizes * total[1:]  # rows up to i in one bucket of width sizes[i]
    cuts: list[np.ndarray] = []
    for _ in range(min(num_buckets, len(sizes)) - 1):
        # table[i, j]: the last bucket holds candidates j+1..i
        table = cost[None, :] + sizes[:, None] * (total[1:, None] - total[None, 1:])
        table[np.triu_indices(len(sizes))] = np.iinfo(np.int64).max
        # The best place to split off the last bucket; stop when one more saves too little.
        best = table.argmin(axis=1)
        least = table[np.arange(len(sizes)), best]
        if least[-1] > (1 - _WORTH) * cost[-1]:
            break
        cuts.append(np.where(least < cost, best, -1))
        cost = np.minimum(least, cost)
    return _trace(sizes, cuts)


def _trace(sizes: np.ndarray, cuts: list[np.ndarray]) -> tuple[int, ...]:
    index = len(sizes) - 1
    widths = [int(sizes[index])]
    for cut in reversed(cuts):
        if cut[index] >= 0:
            index = int(cut[index])
            widths.append(int(sizes[index]))
    return tuple(reversed(widths))


def bucket_for(length: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `length`."""
    return buckets[bisect.bisect_left(buckets, length)]


def pack(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Packs documents into rows of `capacity` tokens by best fit decreasing; none is split or lost.

    Longest first (ties in storage order), each into the fullest row that still has room. Rows come
    out in the order of their first document in storage.
    """
    order = np.argsort(-lengths, kind="stable")
    rows: list[list[int]] = []
    room: dict[int, list[int]] = {}  # free tokens -> rows
    free_sizes: list[int] = []  # keys of `room` with a row in them, ascending
    for document in order.tolist():
        length = int(lengths[document])
        # The smallest gap that fits, so that large gaps are left for what needs them.
        position = bisect.bisect_left(free_sizes, length)
        if position == len(free_sizes):
            rows.append([])
            row = len(rows) - 1
            free = capacity
        else:
            free = free_sizes[position]
            row = room[free].pop()
            if not room[free]:
                del room[free], free_sizes[position]
        rows[row].append(document)
        # The row is filed again under what is left; full rows are filed no more.
        left = free - length
        if left > 0:
            if left not in room:
                room[left] = []
                bisect.insort(free_sizes, left)
            room[left].append(row)
    return sorted((sorted(row) for row in rows), key=lambda row: row[0])


def scored_columns(trained: np.ndarray, width: int) -> np.ndarray:
    """Columns of the trained tokens of each row, ascending, then -1."""
    columns = np.full((len(trained), width), -1, np.int32)
    rows, positions = np.nonzero(trained)
    first = np.concatenate([[0], np.cumsum(trained.sum(axis=1))])[rows]
    columns[rows, np.arange(len(rows)) - first] = positions
    return columns
