"""What a program hands over beside its configuration: rows, reward functions, a tokenizer.

A configuration holds text, numbers and names, so that `config.yaml` can say what a run was. For an
object that a caller gives, a name in angle brackets stands in it (``<callable length_reward>``);
the object itself is found here while the call lasts.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

_HELD: dict[str, Any] = {}


@contextlib.contextmanager
def handing(objects: Mapping[str, Any]) -> Iterator[None]:
    """Objects are found by their names while this lasts."""
    before = dict(_HELD)
    _HELD.update(objects)
    try:
        yield
    finally:
        _HELD.clear()
        _HELD.update(before)


def is_handed(name: str | None) -> bool:
    """Whether a name stands for an object that a program hands over."""
    return name is not None and name.startswith("<") and name.endswith(">")


def handed(key: str, name: str, argument: str) -> Any:
    """The object of a name.

    Args:
      key: of the configuration, for the message.
      name: in angle brackets.
      argument: of `train`, for the message.

    Raises:
      ValueError: no caller has given it.
    """
    if name not in _HELD:
        raise ValueError(
            f"{key}={name} was handed over by the program that started the run: give it again, "
            f"rlhf_jax.train(..., {argument}), or name another {key}"
        )
    return _HELD[name]
