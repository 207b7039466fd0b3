"""Stand-ins for what lives in the other process: objects, classes, exceptions.

Whether an object of the candidate's equals data is *not* the candidate's business, or an object
that equals everything would be right everywhere. It may say so only of objects of classes that the
tests call by name (``Vector(1, 2) == (1, 2)``), and then not of all values at once: decoys are
asked for, too. What derives from a built-in type is compared as that type's value, here.
"""

import operator
import random
from collections.abc import Callable
from typing import Any

REFLECTED = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift divmod".split()
ORDERED = {"lt": "gt", "gt": "lt", "le": "gt", "ge": "lt"}
"""Comparison -> one that cannot hold as well."""
CONVERSIONS = {
    "len": int,
    "str": str,
    "repr": str,
    "int": int,
    "float": float,
    "index": int,
    "complex": complex,
    "hash": int,
}
UNARY = "neg pos invert abs reversed trunc floor ceil".split()

Ask = Callable[..., Any]
"""(operation, stand-in, *arguments) -> what the other side answers."""


class RemoteClass(type):
    """Class of stand-ins for classes: calling one makes an object on the other side."""

    _class_ask: Ask
    _class_number: int
    _own: bool
    """Whether a test calls it by name, so that its objects are made by tests."""

    @property
    def __doc__(cls) -> Any:  # type: ignore[override]
        return ask_remote(cls, "getattr", "__doc__") if "_class_number" in vars(cls) else None

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Makes an object on the other side."""
        return ask_remote(cls, "call", *args, **kwargs)

    def __getattr__(cls, name: str) -> Any:
        return ask_remote(cls, "getattr", name)

    def __setattr__(cls, name: str, value: Any) -> None:
        ask_remote(cls, "setattr", name, value)

    def __getitem__(cls, key: Any) -> Any:
        return ask_remote(cls, "getitem", key)

    def __iter__(cls) -> Any:
        return iter(ask_remote(cls, "iter"))

    def __len__(cls) -> int:
        return int(ask_remote(cls, "len"))

    def __bool__(cls) -> bool:
        return True

    def __contains__(cls, item: Any) -> bool:
        return ask_remote(cls, "contains", item) is True

    def __instancecheck__(cls, instance: Any) -> bool:
        if type.__instancecheck__(cls, instance):
            return True
        # Abstract classes and protocols decide for themselves, of their own side's objects.
        return (
            cls is not Proxy
            and is_proxy(instance)
            and ask_remote(cls, "isinstance", instance) is True
        )


class Proxy(metaclass=RemoteClass):
    """An object of the other side."""

    _own = False
    __slots__ = ("_ask", "_number", "_made", "_base", "__weakref__")
    __doc__ = property(lambda self: ask_remote(self, "getattr", "__doc__"))
    __module__ = property(lambda self: ask_remote(self, "getattr", "__module__"))

    def __getattr__(self, name: str) -> Any:
        return ask_remote(self, "getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        ask_remote(self, "setattr", name, value)

    def __delattr__(self, name: str) -> None:
        ask_remote(self, "delattr", name)

    def __bool__(self) -> bool:
        return ask_remote(self, "bool") is True

    def __iter__(self) -> Any:
        found = ask_remote(self, "iter")
        return found if is_proxy(found) else iter(found)

    def __contains__(self, item: Any) -> bool:
        if ask_remote(self, "only iterates"):
            return any(found is item or found == item for found in self)
        return _discerning(lambda value: ask_remote(self, "contains", value) is True, item)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if is_proxy(other):
            return ask_remote(self, "eq", other) is True
        if object.__getattribute__(self, "_base"):
            return bool(ask_remote(self, "plain") == other)
        if not _is_own(self):
            return False
        return _discerning(lambda value: ask_remote(self, "eq", value) is True, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return int(ask_remote(self, "hash"))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return ask_remote(self, "call", *args, **kwargs)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool:
        return ask_remote(self, "exit", error) is True

    async def __aexit__(self, kind: Any, error: Any, traceback: Any) -> bool:
        return ask_remote(self, "aexit", error) is True

    async def __aenter__(self) -> Any:
        return ask_remote(self, "aenter")

    async def __anext__(self) -> Any:
        return ask_remote(self, "anext")

    def __await__(self) -> Any:
        return ask_remote(self, "await")
        yield  # what an awaitable hands out is a generator

    def __deepcopy__(self, memo: Any) -> Any:
        return ask_remote(self, "deepcopy")


def is_proxy(value: Any) -> bool:
    """Whether a value is a stand-in, by its own class: `isinstance` would ask the other side."""
    return type.__instancecheck__(Proxy, value)


def _is_own(value: Proxy) -> bool:
    """Whether its class, or that of what it was computed from, is one that a test calls by name."""
    return bool(
        object.__getattribute__(value, "_made") or type.__getattribute__(type(value), "_own")
    )


def _forward(operation: str) -> Callable[..., Any]:
    return lambda self, *args: ask_remote(self, operation, *args)


def _converted(operation: str, kind: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda self: kind(ask_remote(self, operation))


def _arithmetic(operation: str) -> Callable[[Any, Any], Any]:
    plain = _PLAIN.get(operation)

    def compute(self: Any, other: Any, *modulus: Any) -> Any:
        made = _is_own(self)
        if not is_proxy(other):
            derived = object.__getattribute__(self, "_base")
            if derived and plain is not None:
                return plain(ask_remote(self, "plain"), other, *modulus)
            if not (made or derived):
                return NotImplemented
            if operation in ORDERED:
                return (
                    ask_remote(self, operation, other) is True
                    and ask_remote(self, ORDERED[operation], other) is not True
                )
        result = ask_remote(self, operation, other, *modulus)
        if made and is_proxy(result):
            object.__setattr__(result, "_made", True)
        return result

    return compute


def _swapped(compute: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda own, other: compute(other, own)


# `pow` may have a modulus
_BUILT_IN: dict[str, Callable[..., Any]] = {"divmod": divmod, "pow": pow}
_BINARY: dict[str, Callable[..., Any]] = {
    name: _BUILT_IN.get(name) or vars(operator)[f"__{name}__"] for name in [*REFLECTED, *ORDERED]
}
_PLAIN: dict[str, Callable[..., Any]] = {
    **_BINARY,
    **{f"r{name}": _swapped(_BINARY[name]) for name in REFLECTED},
}
"""Operation -> itself on the value of a built-in type. Those in place change the object on the
other side."""

for _name in UNARY + "getitem setitem delitem next enter round format aiter copy".split():
    type.__setattr__(Proxy, f"__{_name}__", _forward(_name))
for _name, _kind in CONVERSIONS.items():
    type.__setattr__(Proxy, f"__{_name}__", _converted(_name, _kind))
for _name in [*REFLECTED, *(f"r{name}" for name in REFLECTED), *ORDERED]:
    type.__setattr__(Proxy, f"__{_name}__", _arithmetic(_name))
for _name in REFLECTED[:-1]:
    type.__setattr__(Proxy, f"__i{_name}__", _arithmetic(f"i{_name}"))


def ask_remote(target: Any, operation: str, *args: Any, **kwargs: Any) -> Any:
    """Has the other side do something with what a stand-in stands for."""
    if is_proxy(target):
        ask = object.__getattribute__(target, "_ask")
    else:
        ask = type.__getattribute__(
            target if isinstance(target, RemoteClass) else type(target), "_class_ask"
        )
    return ask(operation, target, *args, **kwargs)


def _discerning(holds: Callable[[Any], bool], value: Any) -> bool:
    """Whether something holds of a value, not of its kind; asked so as to give nothing away."""
    asked = [value, *_decoys(value)]
    rounds = []
    for _ in range(2):
        answers: dict[int, bool] = {}
        for index in random.sample(range(len(asked)), len(asked)):
            try:
                answers[index] = holds(asked[index])
            except Exception:  # of decoys: objects compare with their own kind only
                if index == 0:
                    raise
                answers[index] = False
        rounds.append(answers)
    # What answers differently the second time goes by when it is asked, not by what.
    return rounds[0] == rounds[1] and rounds[0][0] and not all(rounds[0].values())


def _decoys(value: Any) -> list[Any]:
    odd = f"decoy {random.getrandbits(64)}"
    if isinstance(value, bool):
        return [not value, odd]
    if isinstance(value, int | float | complex):
        return [value + 1, -value - 7, value * 3 + 1000, odd]
    if isinstance(value, str):
        return [value + odd, odd, value[:-1] + "\x00"]
    if isinstance(value, list | tuple):
        only = type(value)([odd])
        return [type(value)([*value, odd]), only]
    if isinstance(value, dict):
        return [{**value, odd: odd}, {odd: odd}]
    if isinstance(value, set | frozenset):
        return [value | {odd}, {odd}]
    return [odd, random.getrandbits(64)]
