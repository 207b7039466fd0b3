"""Which shard of the mesh holds a prompt's keys and values, and which completion its slots take.

A slot reads the keys of its prompt at every token. Where another shard held them, every chunk of
tokens would first send the prompts of all shards to all shards; so a completion waits for a slot of
a shard that holds its prompt.
"""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Pool(NamedTuple):
    """Where prompts are kept. R rows, of which each shard holds the same number."""

    prompt: Int[np.ndarray, " R"]
    """Number of the prompt in each row, in the order that they are read."""
    shard: Int[np.ndarray, " R"]
    place: Int[np.ndarray, " R"]
    """Within the rows of the shard."""
    at_once: int
    """Rows that are read by one program."""


class Waiting:
    """Completions that have no slot yet. A shard's slots take those of its prompts, in order."""

    def __init__(
        self, rows: Iterable[int], pool: Pool, *, group_size: int, shards: int = 1
    ) -> None:
        """Queues the completions.

        Args:
          rows: their numbers, group-major, ascending.
          pool: where their prompts are.
          group_size: completions of a prompt.
          shards: of the pool.
        """
        self._left = set(rows)
        self._queues: list[deque[tuple[int, int]]] = [deque() for _ in range(shards)]
        held: dict[int, list[tuple[int, int]]] = {}
        for prompt, shard, place in zip(
            pool.prompt.tolist(), pool.shard.tolist(), pool.place.tolist(), strict=True
        ):
            held.setdefault(prompt, []).append((shard, place))
        for row in sorted(self._left):
            for shard, place in held[row // group_size]:
                self._queues[shard].append((row, place))

    def __len__(self) -> int:
        return len(self._left)

    def next_of(self, shard: int) -> tuple[int, int] | None:
        """(number of the completion that a slot of the shard takes, place of its prompt in the
        shard's pool); None: none waits for this shard."""
        queue = self._queues[shard]
        while queue:
            row, place = queue.popleft()
            # A prompt may be held twice: another shard may have taken the completion already.
            if row in self._left:
                self._left.remove(row)
                return row, place
        return None


def make_pool(count: int, *, at_once: int, shards: int) -> Pool:
    """Gives prompts their places.

    What only fills up the last part holds prompts once more, the first ones, so that its shards
    help with their completions.

    Args:
      count: of the prompts.
      at_once: prompts that are read by one program; a multiple of `shards`.
      shards: parts that rows are divided into.
    """
    rows = np.arange(-(-count // at_once) * at_once)
    per_part = at_once // shards
    # Rows of a part lie one after another over the shards, as the program that reads them has them:
    # they go into the pool without leaving their shard.
    shard, within = np.divmod(rows % at_once, per_part)
    return Pool(rows % count, shard, rows // at_once * per_part + within, at_once)
