"""Order, buckets and packing: pure functions of lengths and seeds."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.data.batching import bucket_for, choose_buckets, epoch_batches, epoch_order, pack

lengths_strategy = st.lists(st.integers(1, 40), min_size=1, max_size=60).map(np.array)


@given(
    lengths=lengths_strategy,
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 2**40),
    window=st.integers(1, 5),
)
def test_an_epoch_covers_every_row_exactly_once(
    lengths: np.ndarray, batch_size: int, seed: int, window: int
) -> None:
    for shuffle in (True, False):
        batches = epoch_batches(
            lengths, batch_size, seed=seed, epoch=3, shuffle=shuffle, window=window
        )
        assert batches.shape == (-(-len(lengths) // batch_size), batch_size)
        assert sorted(batches[batches >= 0].tolist()) == list(range(len(lengths)))
        assert (batches >= 0).any(axis=1).all()


def test_order_depends_on_seed_and_epoch_only() -> None:
    orders = {
        (seed, epoch): epoch_order(100, seed=seed, epoch=epoch)
        for seed in (0, 1, 2**33)
        for epoch in range(3)
    }
    for (seed, epoch), order in orders.items():
        np.testing.assert_array_equal(order, epoch_order(100, seed=seed, epoch=epoch))
        assert sorted(order.tolist()) == list(range(100))
    assert len({tuple(order.tolist()) for order in orders.values()}) == len(orders)


def test_order_is_pinned() -> None:
    """A run resumed by a later version sees the same data."""
    assert epoch_order(10, seed=0, epoch=0).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]


def test_windows_sort_like_with_like() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, 400)

    def waste(window: int) -> int:
        batches = epoch_batches(lengths, 8, seed=0, epoch=0, window=window)
        return int((lengths[batches].max(axis=1) * 8 - lengths[batches].sum(axis=1)).sum())

    assert waste(50) < waste(4) < waste(1)
    assert waste(50) < 0.05 * lengths.sum()


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.integers(1, 4))
def test_buckets_are_optimal(lengths: list[int], num_buckets: int) -> None:
    """Against every choice of widths; a width is left out only if it saves less than 2%."""
    buckets = choose_buckets(lengths, num_buckets)
    assert list(buckets) == sorted(set(buckets)) and len(buckets) <= num_buckets
    assert buckets[-1] == max(1, *lengths)

    def cost(widths: tuple[int, ...]) -> int:
        return sum(bucket_for(length, widths) for length in lengths)

    sizes = sorted({max(1, length) for length in lengths})
    choices = [
        (*chosen, sizes[-1])
        for count in range(num_buckets)
        for chosen in itertools.combinations(sizes[:-1], count)
    ]
    assert cost(buckets) <= min(map(cost, choices)) / 0.98**num_buckets


def test_buckets_are_multiples_and_bounded() -> None:
    lengths = [3, 5, 17, 40, 41, 90, 99]
    assert choose_buckets(lengths, 3, multiple=16, limit=100) == (16, 48, 100)
    assert choose_buckets(lengths, 1, multiple=16) == (112,)
    assert choose_buckets([10] * 5, 4, multiple=8) == (16,)
    assert choose_buckets([1000] * 99 + [1001], 4) == (1001,)  # another shape would not pay


def test_buckets_of_many_lengths() -> None:
    buckets = choose_buckets(np.arange(1, 5000), 4)
    assert buckets[-1] == 4999 and len(buckets) == 4
    np.testing.assert_allclose(buckets[:3], [1250, 2500, 3750], atol=30)


@given(lengths=lengths_strategy)
def test_packing_keeps_every_document_whole(lengths: np.ndarray) -> None:
    rows = pack(lengths, 40)
    assert sorted(itertools.chain(*rows)) == list(range(len(lengths)))
    assert all(lengths[row].sum() <= 40 for row in rows)
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)


@given(lengths=lengths_strategy)
def test_packing_is_tight(lengths: np.ndarray) -> None:
    """Best fit decreasing: no two rows would fit into one; within 11/9 of the lower bound (+1)."""
    filled = sorted(int(lengths[row].sum()) for row in pack(lengths, 40))
    assert len(filled) < 2 or filled[0] + filled[1] > 40
    large = int((lengths > 20).sum())
    assert len(filled) <= max(-(-int(lengths.sum()) // 40) * 1.5, large * 1.5) + 1


def test_packing_by_hand() -> None:
    assert pack(np.array([6, 4, 5, 5, 9, 1]), 10) == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(("length", "bucket"), [(1, 8), (8, 8), (9, 16), (16, 16)])
def test_bucket_for(length: int, bucket: int) -> None:
    assert bucket_for(length, (8, 16)) == bucket
