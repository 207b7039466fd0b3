"""Makes stand-ins (`proxies`): for classes, objects, values of immutable types, exceptions."""

import functools
from collections.abc import Callable
from typing import Any

from rlhf_jax.rewards.sandbox.proxies import Ask, Proxy, RemoteClass, ask_remote, is_proxy

_LOOKED_UP: dict[str, Any] = {
    "__slots__": (),
    **{name: vars(Proxy)[name] for name in ("__doc__", "__module__")},
}
"""What every class of stand-ins has of its own: else Python gives it some."""


class _OfImmutable:
    """Added to stand-ins for subclasses of immutable types: the value is here, the rest there."""

    def __getattr__(self, name: str) -> Any:
        return ask_remote(self, "getattr", name)

    def __str__(self) -> str:
        return str(ask_remote(self, "str"))

    def __repr__(self) -> str:
        return str(ask_remote(self, "repr"))


class _OfError:
    """Added to stand-ins for classes of exceptions: arguments and text are here, all else there."""

    def __getattr__(self, name: str) -> Any:
        if name in ("_ask", "_number", "_text"):
            raise AttributeError(name)
        return ask_remote(self, "getattr", name)

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
