"""Containers that tests got as attributes of the candidate's objects: by value, and so copies.

What a test does to one of them (``stack.items.append(3)``) is done to the original before anything
else is asked of the candidate.
"""

import collections
from collections.abc import Callable, Iterator
from typing import Any

from rlhf_jax.rewards.sandbox import wire

_KINDS: tuple[type, ...] = (
    *(list, dict, set, bytearray),
    *(collections.deque, collections.Counter, collections.OrderedDict, collections.defaultdict),
)
_MOST = 32
_LARGEST = 1000
"""Items of a container that is watched: each request looks at all of them."""


class Borrowed:
    """The containers of one test process.

    Args:
      encode: a value as data, see `wire.encode_plain`.
    """

    def __init__(self, encode: Callable[[Any, wire.Objects], Any]) -> None:
        self._encode = encode
        self._kept: collections.OrderedDict[tuple[int | None, str], tuple[Any, Any, Any]] = (
            collections.OrderedDict()
        )

    def keep(self, owner: Any, number: int | None, name: str, value: Any) -> None:
        """Remembers what an attribute held.

        Args:
          owner: stand-in for the object; None: the value is a global name's.
          number: of the object on the other side.
          name: of the attribute.
          value: what arrived here.
        """
        self._kept.pop((number, name), None)
        if type(value) in _KINDS and len(value) <= _LARGEST:
            self._kept[number, name] = (owner, value, self._described(value))
            while len(self._kept) > _MOST:
                self._kept.popitem(last=False)

    def changed(self) -> Iterator[tuple[Any, str, Any]]:
        """(owner, attribute, value) of those that a test has changed since."""
        for (number, name), (owner, value, before) in list(self._kept.items()):
            now = self._described(value)
            if now != before:
                self._kept[number, name] = (owner, value, now)
                yield owner, name, value

    def _described(self, value: Any) -> Any:
        objects = wire.Objects()

        def encode(part: Any) -> Any:
            return self._encode(part, objects)

        objects.number(value)
        return objects.describe(encode)


def refill(current: Any, value: Any) -> None:
    """Gives a container the contents of another of its kind; others are left alone."""
    if type(current) is not type(value) or type(current) not in _KINDS:
        return
    items: Any = list(value.items()) if isinstance(value, dict) else list(value)
    current.clear()
    if isinstance(current, list | collections.deque | bytearray):
        current.extend(items)
    elif isinstance(current, dict):
        dict.update(current, items)
    else:
        current.update(items)
