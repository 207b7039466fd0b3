"""Where prompts are kept, and which completion a slot takes."""

import numpy as np
import pytest

from rlhf_jax.rollout.queues import Waiting, make_pool


def test_prompts_of_one_shard_keep_their_order():
    pool = make_pool(5, at_once=2, shards=1)
    assert pool.prompt.tolist() == [0, 1, 2, 3, 4, 0], "the last part is filled up"
    assert pool.shard.tolist() == [0] * 6 and pool.place.tolist() == list(range(6))


@pytest.mark.parametrize(
    ("count", "at_once", "shards"), [(12, 16, 8), (12, 8, 4), (1, 8, 8), (7, 2, 2)]
)
def test_a_prompt_is_kept_where_it_is_read(count, at_once, shards):
    pool = make_pool(count, at_once=at_once, shards=shards)
    assert set(pool.prompt.tolist()) == set(range(count))
    # Rows of a part are divided over the shards, one after another.
    expected = np.tile(np.repeat(np.arange(shards), at_once // shards), len(pool.prompt) // at_once)
    assert pool.shard.tolist() == expected.tolist()
    for shard in range(shards):
        own = pool.place[pool.shard == shard]
        # Each part follows the one before it, so that it is written in one piece.
        assert own.tolist() == list(range(len(pool.prompt) // shards))


def test_a_shard_takes_the_completions_of_its_prompts():
    pool = make_pool(4, at_once=2, shards=2)
    waiting = Waiting([0, 1, 3, 4, 6, 7], pool, group_size=2, shards=2)
    assert pool.shard.tolist() == [0, 1, 0, 1] and pool.place.tolist() == [0, 0, 1, 1]
    assert [waiting.next_of(0) for _ in range(4)] == [(0, 0), (1, 0), (4, 1), None]
    assert len(waiting) == 3
    assert [waiting.next_of(1) for _ in range(4)] == [(3, 0), (6, 1), (7, 1), None]
    assert len(waiting) == 0


def test_shards_without_prompts_of_their_own_help():
    pool = make_pool(1, at_once=4, shards=4)
    waiting = Waiting(range(6), pool, group_size=6, shards=4)
    assert [waiting.next_of(shard) for shard in (2, 0, 1, 3, 3, 2)] == [
        (row, 0) for row in range(6)
    ]
    assert not len(waiting) and waiting.next_of(0) is None
