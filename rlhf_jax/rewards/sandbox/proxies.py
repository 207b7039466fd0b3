"""Stand-ins for what lives in the other process: objects, classes, exceptions.

Whether an object of the candidate's equals data is *not* the candidate's business, or an object
that equals everything would be right everywhere. It may say so only of objects of classes that the
tests call by name (``Vector(1, 2) == (1, 2)``), and then not of all values at once: decoys are
asked for, too. What derives from a built-in type is compared as that type's value, here.
"""

import functools
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
        return _remote(cls, "getattr", "__doc__") if "_class_number" in vars(cls) else None

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Makes an object on the other side."""
        return _remote(cls, "call", *args, **kwargs)

    def __getattr__(cls, name: str) -> Any:
        return _remote(cls, "getattr", name)

    def __setattr__(cls, name: str, value: Any) -> None:
        _remote(cls, "setattr", name, value)

    def __getitem__(cls, key: Any) -> Any:
        return _remote(cls, "getitem", key)

    def __iter__(cls) -> Any:
        return iter(_remote(cls, "iter"))

    def __len__(cls) -> int:
        return int(_remote(cls, "len"))

    def __bool__(cls) -> bool:
        return True

    def __contains__(cls, item: Any) -> bool:
        return _remote(cls, "contains", item) is True

    def __instancecheck__(cls, instance: Any) -> bool:
        if type.__instancecheck__(cls, instance):
            return True
        # Abstract classes and protocols decide for themselves, of their own side's objects.
        return (
            cls is not Proxy and is_proxy(instance) and _remote(cls, "isinstance", instance) is True
        )


class Proxy(metaclass=RemoteClass):
    """An object of the other side."""

    _own = False
    __slots__ = ("_ask", "_number", "_made", "_base", "__weakref__")
    __doc__ = property(lambda self: _remote(self, "getattr", "__doc__"))
    __module__ = property(lambda self: _remote(self, "getattr", "__module__"))

    def __getattr__(self, name: str) -> Any:
        return _remote(self, "getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        _remote(self, "setattr", name, value)

    def __delattr__(self, name: str) -> None:
        _remote(self, "delattr", name)

    def __bool__(self) -> bool:
        return _remote(self, "bool") is True

    def __iter__(self) -> Any:
        found = _remote(self, "iter")
        return found if is_proxy(found) else iter(found)

    def __contains__(self, item: Any) -> bool:
        if _remote(self, "only iterates"):
            return any(found is item or found == item for found in self)
        return _discerning(lambda value: _remote(self, "contains", value) is True, item)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if is_proxy(other):
            return _remote(self, "eq", other) is True
        if object.__getattribute__(self, "_base"):
            return bool(_remote(self, "plain") == other)
        if not _is_own(self):
            return False
        return _discerning(lambda value: _remote(self, "eq", value) is True, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return int(_remote(self, "hash"))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _remote(self, "call", *args, **kwargs)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool:
        return _remote(self, "exit", error) is True

    async def __aexit__(self, kind: Any, error: Any, traceback: Any) -> bool:
        return _remote(self, "aexit", error) is True

    async def __aenter__(self) -> Any:
        return _remote(self, "aenter")

    async def __anext__(self) -> Any:
        return _remote(self, "anext")

    def __await__(self) -> Any:
        return _remote(self, "await")
        yield  # what an awaitable hands out is a generator

    def __deepcopy__(self, memo: Any) -> Any:
        return _remote(self, "deepcopy")


def is_proxy(value: Any) -> bool:
    """Whether a value is a stand-in, by its own class: `isinstance` would ask the other side."""
    return type.__instancecheck__(Proxy, value)


def _is_own(value: Proxy) -> bool:
    """Whether its class, or that of what it was computed from, is one that a test calls by name."""
    return bool(
        object.__getattribute__(value, "_made") or type.__getattribute__(type(value), "_own")
    )


def _forward(operation: str) -> Callable[..., Any]:
    return lambda self, *args: _remote(self, operation, *args)


def _converted(operation: str, kind: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda self: kind(_remote(self, operation))


def _arithmetic(operation: str) -> Callable[[Any, Any], Any]:
    plain = _PLAIN.get(operation)

    def compute(self: Any, other: Any, *modulus: Any) -> Any:
        made = _is_own(self)
        if not is_proxy(other):
            derived = object.__getattribute__(self, "_base")
            if derived and plain is not None:
                return plain(_remote(self, "plain"), other, *modulus)
            if not (made or derived):
                return NotImplemented
            if operation in ORDERED:
                return (
                    _remote(self, operation, other) is True
                    and _remote(self, ORDERED[operation], other) is not True
                )
        result = _remote(self, operation, other, *modulus)
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


_LOOKED_UP: dict[str, Any] = {
    "__slots__": (),
    **{name: vars(Proxy)[name] for name in ("__doc__", "__module__")},
}
"""What every class of stand-ins has of its own: else Python gives it some."""


class _OfImmutable:
    """Added to stand-ins for subclasses of immutable types: the value is here, the rest there."""

    def __getattr__(self, name: str) -> Any:
        return _remote(self, "getattr", name)

    def __str__(self) -> str:
        return str(_remote(self, "str"))

    def __repr__(self) -> str:
        return str(_remote(self, "repr"))


class _OfError:
    """Added to stand-ins for classes of exceptions: arguments and text are here, all else there."""

    def __getattr__(self, name: str) -> Any:
        if name in ("_ask", "_number", "_text"):
            raise AttributeError(name)
        return _remote(self, "getattr", name)

    def __str__(self) -> str:
        return str(vars(self).get("_text", ""))


def make_class(name: str, bases: tuple[type, ...], ask: Ask, number: int) -> RemoteClass:
    """A stand-in for a class.

    Args:
      name: of the class.
      bases: stand-ins of its bases, and those of them that are exceptions or immutable built-in
        types themselves.
      ask: what a stand-in asks.
      number: of the class on the other side.
    """
    real = tuple(base for base in bases if base not in (object, Proxy))
    content: dict[str, Any] = {
        "_class_ask": staticmethod(ask),
        "_class_number": number,
        "_own": False,
    }
    kinds: list[tuple[type, ...]] = [real, real[:1]]
    for root, mixin in ((BaseException, _OfError), (object, _OfImmutable)):
        chosen = tuple(
            base for base in real if issubclass(base, root) and not issubclass(base, Proxy)
        )
        if chosen:
            kinds = [
                bases if issubclass(bases[0], mixin) else (mixin, *bases)
                for bases in (chosen, chosen[:1])
            ]
            break
    for kind in kinds:
        try:
            slots = {} if kind and not issubclass(kind[0], Proxy) else _LOOKED_UP
            return RemoteClass.__new__(RemoteClass, name, kind or (Proxy,), content | slots)
        except TypeError:
            continue  # bases that do not go together here though they do there (layouts, orders)
    return RemoteClass.__new__(RemoteClass, name, (Proxy,), content | _LOOKED_UP)


def make_object(kind: type, ask: Ask, number: int, *, base: bool) -> Proxy:
    """A stand-in for an object of a class.

    Args:
      kind: a stand-in for its class.
      ask: what a stand-in asks.
      number: of the object on the other side.
      base: whether it derives from a mutable built-in type.
    """
    if not issubclass(kind, Proxy):
        kind = _standard(kind)  # type: ignore[arg-type]
    made: Proxy = object.__new__(kind)
    for name, value in (("_ask", ask), ("_number", number), ("_made", False), ("_base", base)):
        object.__setattr__(made, name, value)
    return made


@functools.cache
def _standard(kind: type) -> type:
    """A class of stand-ins for objects of the standard library (generators, locks, patterns)."""
    return RemoteClass.__new__(
        RemoteClass,
        kind.__name__,
        (Proxy,),
        _LOOKED_UP | {"__class__": property(lambda self: kind)},
    )


def make_value(kind: type, value: Any, number: int) -> Any:
    """A value of a class that derives from an immutable type.

    Args:
      kind: a stand-in for the class.
      value: as its base has it.
      number: of the object on the other side.
    """
    base = type(value)
    made: Any = base.__new__(kind, value)
    made.__dict__["_number"] = number
    return made


def make_error(
    kind: type, args: tuple[Any, ...], fields: dict[str, Any], text: str, number: int
) -> BaseException:
    """An exception like one on the other side.

    Args:
      kind: its class: one of the standard library, or a stand-in.
      args: its arguments.
      fields: its other attributes, as far as they are plain.
      text: it as text.
      number: of the exception on the other side.
    """
    if isinstance(kind, RemoteClass):
        new: Callable[..., BaseException] = kind.__new__
        error = new(kind, *args)  # not by a call, which would be made there
        fields = fields | {"_number": number, "_text": text}
    else:
        try:
            error = kind(*args)
        except Exception:  # it takes others than those it keeps
            error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(fields)
    return error


def number_of(value: Any) -> int | None:
    """The number on the other side of what a stand-in stands for; None for everything else."""
    if isinstance(value, RemoteClass):
        return vars(value).get("_class_number")
    if is_proxy(value):
        return int(object.__getattribute__(value, "_number"))
    if isinstance(value, _OfImmutable | _OfError):
        return vars(value).get("_number")
    return None


def _remote(target: Any, operation: str, *args: Any, **kwargs: Any) -> Any:
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
